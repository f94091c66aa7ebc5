//! The program: arguments in, exit code out. Everything else is the library's.

fn main() {
    std::process::exit(netrec::cli::main(std::env::args_os()));
}

// What unwinds a stack for the backtrace of a panic, as a part of this program and not as a library beside it
// (`libgcc_s`): a file less for the loader to find, map and initialise at each start.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a block without functions is how a library is named")]
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}
