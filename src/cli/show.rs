//! `netrec show`: what the kernel holds of a topology.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::load::{Loaded, load};
use super::{Exit, Format, Output, output};
use crate::apply::Target;
use crate::kernel::linux::Linux;
use crate::kernel::{Kernel, privilege};
use crate::model::resource::{Kind, Resource};
use crate::model::source::Sources;
use crate::model::topology::Topology;

/// List what the kernel holds of a topology, as found by its marks.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  netrec show shop.toml
  netrec show --topology shop          when the file is gone
  netrec show --rules shop.toml        the firewall")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["paths", "topology"]))]
pub(super) struct Show {
    /// Files, or directories of `*.toml`, that make one topology.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The topology's name, when its files are gone.
    #[arg(long, value_name = "NAME", value_parser = super::topology_name)]
    topology: Option<String>,
    /// Print the firewall as nft would list it.
    #[arg(long)]
    rules: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Serialize)]
struct Shown<'a> {
    version: u32,
    topology: &'a str,
    resources: Vec<Line>,
}

#[derive(Serialize)]
struct Firewall<'a> {
    version: u32,
    topology: &'a str,
    rules: String,
}

#[derive(Serialize)]
struct Line {
    id: String,
    kind: &'static str,
    summary: String,
    details: Vec<String>,
}

impl Show {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let format = self.output.format;
        let loaded = match &self.topology {
            Some(name) => {
                Loaded { topology: Topology { name: name.clone(), ..Topology::default() }, sources: Sources::new() }
            }
            None => load(&self.paths)?,
        };
        privilege::check()?;
        let observed = Linux::default().observe(&Target::Topology(&loaded.topology).scope())?;
        let ours = observed.ours.iter().filter(|(_, resource)| !resource.stays());
        if self.rules {
            let rules = ours.filter_map(|(_, resource)| match resource {
                Resource::Firewall(firewall) => Some(firewall.text()),
                _ => None,
            });
            let (version, topology, rules) = (1, loaded.topology.name.as_str(), rules.collect::<String>());
            match format {
                Format::Json => output::say_json(&Firewall { version, topology, rules }),
                Format::Text => output::say(&rules),
            }
            return Ok(Exit::Done);
        }
        let lines: Vec<Line> = ours
            .map(|(id, resource)| Line {
                id: id.to_string(),
                kind: id.kind.word(),
                summary: resource.summary(),
                details: resource.details(),
            })
            .collect();
        match format {
            Format::Json => {
                let topology = loaded.topology.name.as_str();
                output::say_json(&Shown { version: 1, topology, resources: lines });
            }
            Format::Text => {
                let width = lines.iter().map(|line| line.id.chars().count()).max().unwrap_or(0).min(48);
                let entry = |line: &Line| {
                    let first = format!("{:<width$}  {}\n", line.id, line.summary);
                    let further = line.details.iter().map(|detail| format!("{:<width$}  {detail}\n", ""));
                    std::iter::once(first).chain(further).collect::<String>()
                };
                output::say(&lines.iter().map(entry).collect::<String>());
            }
        }
        Ok(Exit::Done)
    }
}
