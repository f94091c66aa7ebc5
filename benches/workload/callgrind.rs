//! Instructions of a program under valgrind, as its callgrind counts them.

use std::process::Command;

/// Whether valgrind is installed.
pub(crate) fn is_there() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok()
}

/// How many instructions this program takes, started once more as `with` says.
pub(crate) fn instructions(with: impl FnOnce(&mut Command) -> &mut Command) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe().expect("a program"));
    let output = with(&mut command).output().expect("valgrind starts");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    let collected = words.split("Collected :").nth(1).and_then(|rest| rest.split_whitespace().next());
    collected.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no count in {words}"))
}
