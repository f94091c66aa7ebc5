//! `netrec check`: whether a topology is right in itself.

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::load::load;
use super::{Exit, Format, Input, output};
use crate::model::lower::{Rejection, lower};
use crate::model::observed::Observed;

/// Parse and validate; needs no privilege, touches nothing.
#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    input: Input,
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
        let loaded = load(&self.input.paths).map_err(|failure| failure.in_form(format))?;
        let topology = &loaded.topology;
        match lower(topology, &Observed::default()) {
            Ok(_) => {}
            Err(Rejection::Invalid(findings) | Rejection::Refused(findings)) => {
                return Err(Failure::Invalid { findings, sources: loaded.sources }.in_form(format));
            }
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
