//! Whoever asks the watcher something: on its control socket, or for metrics.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::metrics;
use crate::cli::control::{Answer, LINE_BYTES, Question, Verb, socket};

/// Conversations at one time; more have to wait.
const CONVERSATIONS: usize = 16;
/// How long one may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// A request for metrics may be that long, in bytes.
const HEAD_BYTES: u64 = 8 << 10;

/// A question and where its answer goes.
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Where the questions come from.
pub(super) type Questions = mpsc::Sender<Asked>;

/// Opens the control socket of a topology, whose lock is held: whatever stands there is of a watcher that has died.
pub(super) fn open(topology: &str) -> std::io::Result<UnixListener> {
    let path = socket(topology);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Its directory is ours alone, so nobody is quicker than the next line.
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers on the control socket, for root and for whom we run as.
pub(super) async fn serve(listener: UnixListener, questions: Questions) {
    let room = Arc::new(Semaphore::new(CONVERSATIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for example.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let questions = questions.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let allowed =
                stream.peer_cred().is_ok_and(|peer| [0, nix::unistd::geteuid().as_raw()].contains(&peer.uid()));
            if allowed {
                let _ = converse(stream, questions).await;
            }
        });
    }
}

async fn converse(stream: UnixStream, questions: Questions) -> std::io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading.take(LINE_BYTES));
    let mut line = String::new();
    while tokio::time::timeout(SILENCE, reading.read_line(&mut line)).await?? > 0 {
        let question = serde_json::from_str::<Question>(&line);
        let answer = match question {
            Ok(question) if question.version == 1 => put(&questions, question).await,
            Ok(question) => Err(format!("version {} is not spoken here, 1 is", question.version)),
            Err(error) => Err(format!("not understood: {error}")),
        };
        let text = match answer {
            Ok(answer) => serde_json::to_string(&answer)?,
            Err(error) => serde_json::json!({ "version": 1, "error": error }).to_string(),
        };
        tokio::time::timeout(SILENCE, writing.write_all((text + "\n").as_bytes())).await??;
        line.clear();
    }
    Ok(())
}

async fn put(questions: &Questions, question: Question) -> Result<Answer, String> {
    let ended = || "the watcher is ending".to_owned();
    let (answer, answered) = oneshot::channel();
    questions.send(Asked { question, answer }).await.map_err(|_| ended())?;
    answered.await.map_err(|_| ended())
}

/// Where metrics are to be had.
pub(super) enum Outlet {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Outlet {
    /// Opens a loopback address and port, or `unix:PATH`.
    pub(super) fn open(at: &Listen) -> std::io::Result<Self> {
        match at {
            Listen::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            Listen::Unix(path) => {
                use std::os::unix::fs::FileTypeExt;
                // Left by one that has died; anything else is somebody's.
                if fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket()) {
                    fs::remove_file(path)?;
                }
                UnixListener::bind(path).map(Self::Unix)
            }
        }
    }

    /// Answers `GET /metrics` and `GET /healthz`.
    pub(super) async fn serve(self, topology: String, questions: Questions) {
        let room = Arc::new(Semaphore::new(CONVERSATIONS));
        let topology: Arc<str> = topology.into();
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let (questions, topology) = (questions.clone(), topology.clone());
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _permit = permit;
                        let _ = tokio::time::timeout(SILENCE, respond(stream, &topology, &questions)).await;
                    })
                }),
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _permit = permit;
                        let _ = tokio::time::timeout(SILENCE, respond(stream, &topology, &questions)).await;
                    })
                }),
            };
            if accepted.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One request, one response, as HTTP/1.0 has it.
async fn respond(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    topology: &str,
    questions: &Questions,
) -> std::io::Result<()> {
    let mut head = BufReader::new((&mut stream).take(HEAD_BYTES));
    let mut request = String::new();
    head.read_line(&mut request).await?;
    let mut line = String::new();
    while head.read_line(&mut line).await? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    let standing = put(questions, Question::new(Verb::Status)).await.map(|answer| answer.standing);
    let mut words = request.split_ascii_whitespace();
    let (status, body) = match (words.next(), words.next(), standing) {
        (Some("GET"), Some("/metrics"), Ok(standing)) => ("200 OK", metrics::text(topology, &standing)),
        (Some("GET"), Some("/healthz"), Ok(standing)) => metrics::health(&standing),
        (Some("GET"), _, Ok(_)) => ("404 Not Found", "there are /metrics and /healthz\n".to_owned()),
        (_, _, Ok(_)) => ("405 Method Not Allowed", String::new()),
        (_, _, Err(error)) => ("503 Service Unavailable", error + "\n"),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}

/// A place to listen at.
#[derive(Clone, Debug)]
pub(super) enum Listen {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("`unix:` without a path".into()) } else { Ok(Self::Unix(path.into())) };
        }
        let address: std::net::SocketAddr =
            text.parse().map_err(|_| format!("`{text}` is neither ADDRESS:PORT nor unix:PATH"))?;
        if !address.ip().is_loopback() {
            return Err(format!("`{}` is not a loopback address: what is told there is for this host", address.ip()));
        }
        Ok(Self::Tcp(address))
    }
}
