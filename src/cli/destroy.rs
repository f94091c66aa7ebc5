//! `netrec destroy`: apply nothing.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::apply::{Ahead, Errand};
use super::failure::Failure;
use super::load::Loaded;
use super::{Allowing, Cutting, Exit, Format, Output, Writing};
use crate::apply::Target;
use crate::kernel::surroundings::Surroundings;
use crate::model::source::Sources;
use crate::model::topology::Topology;

/// Remove everything that bears the topology's mark.
///
/// Settings that were switched on, such as forwarding, stay: others may have come to rely on them.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  netrec plan --destroy shop.toml    what would go?
  netrec destroy shop.toml
  netrec destroy --topology shop     when the file is gone")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["paths", "topology"]))]
pub(super) struct Destroy {
    /// Files, or directories of `*.toml`, that make one topology.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The topology's name, when its files are gone.
    #[arg(long, value_name = "NAME", value_parser = super::topology_name)]
    topology: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    cutting: Cutting,
}

impl Destroy {
    pub(super) fn run(self, around: Arc<Surroundings>) -> Result<Exit, Failure> {
        let format: Format = self.output.format;
        let (writing, allowing) = (self.writing, Allowing { allow_deletes: None, cutting: self.cutting });
        let errand =
            |target, loaded, ahead| Errand { command: "destroy", target, loaded, ahead, writing, allowing, format };
        if let Some(name) = self.topology {
            let loaded = Loaded { topology: Topology::default(), sources: Sources::new() };
            return errand(Target::Nothing(&name, None), &loaded, Ahead::of(around)).run(None);
        }
        let (loaded, ahead) = Ahead::load(&self.paths, around)?;
        errand(Target::Nothing(&loaded.topology.name, Some(&loaded.topology)), &loaded, ahead).run(None)
    }
}
