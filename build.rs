//! Compiles the rules of every topology: their modules are taken as they are, so there is one place that says what they are,
//! and what a run would have to work out anew each time is a part of the program. So is the C library, where the linker can.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use model::kinds::firewall::tables;

#[path = "src/model"]
#[allow(dead_code, unreachable_pub, reason = "they are the program's, which uses more of them")]
mod model {
    pub mod attribute;
    pub mod kinds {
        pub mod firewall {
            mod bridged;
            mod compile;
            mod definition;
            mod language;
            mod numbers;
            mod rules;
            mod uses;

            use compile::{HOLDS_GROUP, UNKNOWN};

            use crate::model::attribute::Put as _;

            /// Both tables of any topology by their family: under the number of the message that makes an object, the
            /// parts that it is there for, and its attributes.
            pub fn tables() -> impl Iterator<Item = (u8, Vec<u8>)> {
                rules::Skeleton::both(UNKNOWN, uses::Uses::ALL).into_iter().map(|skeleton| {
                    let mut out = Vec::new();
                    let uses = skeleton.objects.iter().map(|(uses, _)| uses.0.to_ne_bytes());
                    for (uses, (message, attributes)) in uses.zip(compile::objects(&skeleton)) {
                        let holds = attributes.chunks(4).any(|word| word == UNKNOWN.to_ne_bytes());
                        let message = if holds { message | HOLDS_GROUP } else { message };
                        out.put(message, &[&uses, &*attributes].concat());
                    }
                    (compile::family(skeleton.family), out)
                })
            }
        }
    }
}

/// What the standard library asks the linker for, and the archive that holds the same.
const ARCHIVES: [(&str, &str); 7] =
    [("c", "c"), ("dl", "dl"), ("gcc_s", "gcc_eh"), ("m", "m"), ("pthread", "pthread"), ("rt", "rt"), ("util", "util")];

/// What the linker is told for a program that has the C library in itself, and may still lie anywhere: that library as an
/// archive in the first place where it looks for libraries. (`crt-static` says the same to rustc, which then wants the target
/// named, and puts the program elsewhere.) None where that is not to be had, or wanted, or does not work: linkers differ, so it
/// is tried.
fn alone(out: &Path) -> Option<Vec<String>> {
    let given = |name| env::var(name).unwrap_or_default();
    let flags = given("CARGO_ENCODED_RUSTFLAGS");
    if given("HOST") != given("TARGET") || given("CARGO_CFG_TARGET_ENV") != "gnu" || flags.contains("crt-static") {
        return None;
    }
    let linker = Some(given("RUSTC_LINKER")).filter(|it| !it.is_empty());
    let archives = out.join("archives");
    let _ = fs::remove_dir_all(&archives);
    fs::create_dir(&archives).ok()?;
    for (wanted, archive) in ARCHIVES {
        let mut asked = Command::new(linker.as_deref().unwrap_or("cc"));
        let answer = asked.arg(format!("-print-file-name=lib{archive}.a")).output().ok()?.stdout;
        // One that is not there is named without a directory.
        let path = Some(PathBuf::from(String::from_utf8(answer).ok()?.trim())).filter(|it| it.is_absolute())?;
        // Where it has gone, linkers would take a library that needs the loader, of which the program knows nothing.
        println!("cargo::rerun-if-changed={}", path.display());
        symlink(path, archives.join(format!("lib{wanted}.a"))).ok()?;
    }
    let mut told = vec!["-static-pie".to_owned(), format!("-L{}", archives.display())];
    told.extend(["-lgcc_eh", "-lgcc", "-lc"].map(str::to_owned)); // they ask for each other
    let (source, program) = (out.join("trial.rs"), out.join("trial"));
    fs::write(&source, "fn main() { std::thread::spawn(|| ()).join().unwrap() }").ok()?;
    let mut rustc = Command::new(given("RUSTC"));
    rustc.args(flags.split('\x1f').filter(|it| !it.is_empty())).args(linker.map(|it| format!("-Clinker={it}")));
    rustc.args(told.iter().map(|it| format!("-Clink-arg={it}"))).arg("-o").arg(&program).arg(source);
    let works = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let works = works(&mut rustc) && lies_anywhere(&program) && works(&mut Command::new(&program));
    let _ = fs::remove_file(program);
    works.then_some(told)
}

/// `ET_DYN` (elf(5)): gold, which cannot link so, has rustc try again for a fixed place.
fn lies_anywhere(program: &Path) -> bool {
    const DYNAMIC: u16 = 3;
    fs::read(program).is_ok_and(|elf| elf.get(16..18) == Some(&DYNAMIC.to_ne_bytes()))
}

fn main() {
    // Lengths and kinds of attributes are in the byte order of the machine that they are for.
    let native = if cfg!(target_endian = "big") { "big" } else { "little" };
    if env::var("CARGO_CFG_TARGET_ENDIAN").is_ok_and(|target| target != native) {
        println!("cargo::error=netrec is built on a machine of the byte order that it is for");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says it"));
    for (family, compiled) in tables() {
        fs::write(out.join(format!("rules.{family}")), compiled).expect("the directory is there to be written to");
    }
    let told = alone(&out);
    println!("cargo::rustc-env=NETREC_ALONE={}", told.is_some()); // for tests
    for argument in told.unwrap_or_default() {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    // The modules above are parts of this program, which is run again where it has changed; for no other file is it.
    println!("cargo::rerun-if-changed=build.rs");
}
