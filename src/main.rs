//! The program: arguments in, exit code out. Everything else is the library's.

fn main() {
    std::process::exit(netrec::cli::main(std::env::args_os()));
}
