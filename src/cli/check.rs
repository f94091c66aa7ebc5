//! `netrec check`: whether a topology is right in itself.

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::load::load;
use super::{Exit, Format, Input, output};
use crate::model::lower::{Rejection, lower};
use crate::model::observed::Observed;

/// Parse and validate; needs no privilege, touches nothing.
///
/// Says everything that is wrong at once, each with its place in the file and what would be right.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  netrec check shop.toml
  netrec check /etc/netrec/          all *.toml of a directory make one topology
  netrec check --format json shop.toml | jq '.errors[] | .message'")]
pub(super) struct Check {
    #[command(flatten)]
    pub(super) input: Input,
}

#[derive(Serialize)]
struct Checked<'a> {
    version: u32,
    topology: &'a str,
    networks: usize,
    containers: usize,
    endpoints: usize,
}

impl Check {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let format = self.input.output.format;
        let loaded = load(&self.input.paths)?;
        let topology = &loaded.topology;
        if let Err(Rejection::Invalid(findings) | Rejection::Refused(findings)) = lower(topology, &Observed::default())
        {
            return Err(Failure::invalid(findings, &loaded.sources));
        }
        let (networks, containers, endpoints) =
            (topology.networks.len(), topology.containers.len(), topology.endpoints.len());
        match format {
            Format::Json => {
                let topology = topology.name.as_str();
                output::say_json(&Checked { version: 1, topology, networks, containers, endpoints });
            }
            Format::Text => output::say(&format!(
                "topology {} is valid: {}, {}, {}\n",
                topology.name,
                count(networks, "network"),
                count(containers, "container"),
                count(endpoints, "endpoint"),
            )),
        }
        Ok(Exit::Done)
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
