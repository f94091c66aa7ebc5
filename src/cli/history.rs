//! `netrec history`: what was done on this host.

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::{Exit, Format, Output, output};
use crate::apply::history;
use crate::kernel::KernelError;

/// List what netrec did on this host, the oldest first. Purely informative: nothing else reads it.
#[derive(Args, Debug)]
pub(super) struct History {
    /// Of this topology only.
    topology: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Serialize)]
struct Told<'a> {
    version: u32,
    records: Vec<&'a history::Record>,
    corrupt: usize,
}

impl History {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let history = history::History::default();
        let read = history.read().map_err(|error| KernelError::io(history.to_string(), &error));
        let (all, corrupt) = read?;
        let wanted = |record: &&history::Record| self.topology.as_ref().is_none_or(|name| record.topology == *name);
        let records: Vec<&history::Record> = all.iter().filter(wanted).collect();
        match self.output.format {
            Format::Json => output::say_json(&Told { version: 1, records, corrupt }),
            Format::Text => {
                let line = |record: &&history::Record| {
                    let history::Record { when, who, topology, command, digest, summary, result, .. } = record;
                    let digest = digest.as_deref().unwrap_or("-");
                    let summary = if summary.is_empty() { "-" } else { summary };
                    format!("{}  {who}  {topology}  {command}  {digest}  {summary}  {result}\n", output::utc(*when))
                };
                output::say(&records.iter().map(line).collect::<String>());
            }
        }
        if corrupt > 0 {
            output::complain(&format!("{corrupt} lines of the history are corrupt and were passed over\n"));
        }
        Ok(Exit::Done)
    }
}
