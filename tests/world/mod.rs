//! A machine of its own for a test: fresh network and mount namespaces with an empty `/run`, on a thread that ends
//! with the test, so that tests of one process do not meet.

#![allow(dead_code, reason = "each test binary uses its part")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]
#![expect(clippy::unwrap_used, reason = "a world that cannot be made fails the test")]

use std::fs;
use std::panic::resume_unwind;
use std::process::{Child, Command};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a world of its own. Without the privilege to make one the test fails, unless `NETREC_SKIP_KERNEL=1`.
pub(crate) fn run(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var("NETREC_SKIP_KERNEL").is_ok_and(|skip| skip == "1"),
            "this test needs root (or `unshare -r`); NETREC_SKIP_KERNEL=1 skips it"
        );
        eprintln!("SKIPPED: not root, and NETREC_SKIP_KERNEL=1");
        return;
    }
    std::thread::scope(|scope| {
        let world = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            mount(Some("netrec-test"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
            sh("ip link set lo up");
            test();
        });
        world.join().unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Runs a script in the world; it must succeed.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-euc", script]).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A process in a named namespace, killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts one and waits until it is in there.
    pub(crate) fn start(netns: &str) -> Self {
        let child = Command::new("ip").args(["netns", "exec", netns, "sleep", "1000"]).spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&comm).unwrap() != "sleep\n" {
            std::thread::yield_now();
        }
        Self(child)
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
