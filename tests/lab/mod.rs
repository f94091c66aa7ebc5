//! Throw-away namespaces in which tests meet the real kernel: nothing of the machine is in reach.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in network and mount namespaces of its own, on a thread of its own.
///
/// Says so and passes only if `NETREC_SKIP_KERNEL=1`; without privilege it fails.
pub(crate) fn in_private_namespaces(test: impl FnOnce() + Send + 'static) {
    if std::env::var_os("NETREC_SKIP_KERNEL").is_some_and(|value| value == "1") {
        let _ =
            writeln!(std::io::stderr(), "SKIPPED on request: NETREC_SKIP_KERNEL=1, nothing was shown about the kernel");
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("kernel tests need root or a user namespace");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts become private");
        mount(Some("t"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("an empty /run");
        // The view of /proc/sys/net follows the thread that opens it.
        run("ip link set lo up");
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a shell line; panics with its output if it fails.
pub(crate) fn run(line: &str) -> String {
    let output = attempt(line);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a shell line, whatever comes of it.
pub(crate) fn attempt(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().expect("sh starts")
}

/// Feeds nft.
pub(crate) fn nft(text: &str) {
    fs::write("/run/rules.nft", text).expect("/run is ours");
    run("nft -f /run/rules.nft");
}
