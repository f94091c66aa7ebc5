//! What becomes of stale flows when they cannot be forgotten, or when it cannot be noted that they are.

use std::process::Stdio;

use super::*;

/// Who is answered through a published port, and the file that gives the port to another endpoint.
fn about_to_move() -> (Client, String) {
    with_containers();
    apply(&topology(r#""5300:53/udp""#, ""));
    let client = Client::new("lan", "192.0.2.1:5300");
    client.is_answered_by("web");
    (client, topology("", r#""5300:53/udp""#))
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first message of every thread is lost: all that one says which walks over the flows beside the rest. So that
/// thread fails whenever it is tried, and a walk is made only by whoever tries again himself.
#[test]
fn a_walk_over_the_flows_that_fails_is_told_and_made_again() {
    in_private_namespaces(|| {
        let (client, to) = about_to_move();
        let complaints = fs::File::create("/run/complaints").unwrap();
        let faulty = ["-D", "-f", "-qq", "-o", "/dev/null", "-e", "inject=sendmsg:error=EIO:when=1"];
        let watch = [env!("CARGO_BIN_EXE_netrec"), "watch", "/run/shop.toml"];
        let watcher =
            Command::new("strace").args(faulty).args(watch).stdout(Stdio::null()).stderr(complaints).spawn().unwrap();
        let _watcher = Running(watcher);
        let eventually = |what: &str, there: &mut dyn FnMut() -> bool| {
            let come = (0..400).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                there()
            });
            assert!(come, "{what}: {}", fs::read_to_string("/run/complaints").unwrap());
        };
        let in_sync = format!("{} wait /run/shop.toml", env!("CARGO_BIN_EXE_netrec"));
        eventually("it watches", &mut || attempt(&in_sync).status.success());
        fs::write("/run/new.toml", &to).unwrap();
        fs::rename("/run/new.toml", "/run/shop.toml").unwrap();
        eventually("the client is led to the other one", &mut || client.ask(1).as_deref() == Some("api"));
        let said = fs::read_to_string("/run/complaints").unwrap();
        assert_eq!(said.matches("stale flows are not forgotten").count(), 1, "{said}");
    });
}

/// The tables go after the rules were written, and before it is noted that the flows are forgotten.
#[test]
fn flows_are_forgotten_also_if_there_is_nowhere_to_note_it() {
    in_private_namespaces(|| {
        let (client, to) = about_to_move();
        let flush =
            "timeout 20 sh -c 'until nft list map inet netrec-shop publish4 | grep -q 10.10.0.11; do sleep 0.01; done'
                     nft flush ruleset";
        let mut flusher = Command::new("sh").args(["-c", flush]).spawn().unwrap();
        fs::write("/run/shop.toml", &to).unwrap();
        let slow = "strace -qqo /dev/null -e inject=sendto:delay_exit=200000";
        let output = attempt(&format!("{slow} {} apply /run/shop.toml --yes", env!("CARGO_BIN_EXE_netrec")));
        assert!(flusher.wait().unwrap().success() && output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("not forgotten"), "{said}");
        client.is_answered_by("api");
    });
}
