//! The rules that netrec makes for W(N), as it says them to nftables: what the kernel takes for them alone can be measured.

use std::os::fd::RawFd;

use netrec::apply::{Target, decide};
use netrec::model::kinds::Resource;
use netrec::model::observed::Observed;
use netrec::model::parse::parse;
use netrec::model::resource::Step;
use netrec::model::source::Source;
use netrec::model::wire::{Body, Lookup, NftMessage, Place};
use nix::libc;

use super::workload;

/// `NFNL_SUBSYS_NFTABLES` of linux/netfilter/nfnetlink.h, and what a batch begins and ends with.
const NFTABLES: u16 = 10;
const BEGIN: u16 = 16;
const END: u16 = 17;

/// All transactions, one after the other, the messages of each numbered from 1 on. The last but one is acknowledged.
pub(super) fn transactions(containers: usize) -> Vec<u8> {
    let topology = parse(&[Source::new("w.toml", workload::topology(containers))]).expect("the workload is valid");
    let nothing = Observed { looked: true, ..Observed::default() };
    let prepared = decide(Target::Topology(&topology), nothing).expect("a plan");
    let to_nftables = |step: &&Step| step.parts.iter().any(|(_, place)| *place == Place::Netfilter);
    let said = prepared.plan.steps.iter().filter(to_nftables);
    let said =
        said.flat_map(|step| Resource::encode(&step.op, &mut Nobody).expect("rules name nothing that is looked up"));
    let batches = said.filter_map(|message| match message.body {
        // What notes that flows are forgotten is a transaction too.
        Body::Nft(messages) | Body::Forget(_, messages) if !messages.is_empty() => Some(messages),
        _ => None,
    });
    batches.flat_map(|batch| transaction(&batch)).collect()
}

fn transaction(messages: &[NftMessage]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, (BEGIN, 0, 1), (0, NFTABLES), &[]);
    for (sequence, it) in (2..).zip(messages) {
        let last = sequence == messages.len() as u32 + 1;
        let flags = it.flags | if last { libc::NLM_F_ACK as u16 } else { 0 };
        push(&mut bytes, (NFTABLES << 8 | it.message, flags, sequence), (it.family, 0), &it.attributes);
    }
    push(&mut bytes, (END, 0, messages.len() as u32 + 2), (0, NFTABLES), &[]);
    bytes
}

/// An `nlmsghdr` with a `nfgenmsg`.
fn push(to: &mut Vec<u8>, (kind, flags, sequence): (u16, u16, u32), (family, resource): (u8, u16), attributes: &[u8]) {
    let length = 20 + attributes.len();
    to.extend((length as u32).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    to.extend(sequence.to_ne_bytes());
    to.extend([0; 4]);
    to.extend([family, 0]);
    to.extend(resource.to_be_bytes());
    to.extend(attributes);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Nothing else is looked up for rules.
struct Nobody;

impl Lookup for Nobody {
    fn index(&mut self, _: &str, _: &str) -> Option<u32> {
        None
    }
    fn netns_fd(&mut self, _: &str) -> Option<RawFd> {
        None
    }
}
