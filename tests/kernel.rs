//! The same stories with the same transcripts on Linux, each in a process with fresh namespaces of its own; the state
//! that Linux is in is compared with the simulated one after every chapter, the second apply must write nothing, and
//! what was planted for others must come out as it went in.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod story;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use story::Story;
use story::linux::{OnLinux, sh, snapshot};

fn main() -> ExitCode {
    if let Some(folder) = std::env::var_os("NETREC_STORY") {
        return inside(&Story::read(folder.into()));
    }
    let left_out = world::left_out("every story told by Linux");
    let trials = Story::all().into_iter().map(|story| {
        Trial::test(format!("kernel_{}", story.name), move || outside(&story)).with_ignored_flag(left_out)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Starts this program again in namespaces of its own.
fn outside(story: &Story) -> Result<(), Failed> {
    let output = world::program(&std::env::current_exe()?).env("NETREC_STORY", &story.folder).output()?;
    if output.status.success() {
        return Ok(());
    }
    let (told, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{told}{complaints}").into())
}

fn inside(story: &Story) -> ExitCode {
    sh("mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up
        [ ! -e /etc/systemd/system ] || mount -t tmpfs tmpfs /etc/systemd/system");
    let mut teller = OnLinux::new(&story.before);
    let planted = snapshot();
    let told = story.tell(&mut teller);
    let mut failures = teller.differences;
    if let Err(difference) = story.check("expected.txt", &told) {
        failures += &difference;
    }
    let left = snapshot();
    if left != planted {
        let difference = similar::TextDiff::from_lines(&planted, &left);
        failures += &difference.unified_diff().header("planted", "left").to_string();
    }
    print!("{failures}");
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
