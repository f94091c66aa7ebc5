//! Compiles the rules of every topology: their modules are taken as they are, so there is one place that says what they are,
//! and what a run would have to work out anew each time is a part of the program.

use std::path::PathBuf;
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
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/model/attribute.rs");
    for module in ["bridged", "compile", "definition", "numbers", "rules"] {
        println!("cargo::rerun-if-changed=src/model/kinds/firewall/{module}.rs");
    }
}
