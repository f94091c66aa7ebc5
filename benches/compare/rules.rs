//! The rules that netrec makes for W(N), as it says them to nftables: what the kernel takes for them alone can be measured.

use netrec::apply::{Target, decide};
use netrec::kernel::nft::transaction;
use netrec::model::kinds::Resource;
use netrec::model::observed::Observed;
use netrec::model::parse::parse;
use netrec::model::resource::Step;
use netrec::model::source::Source;
use netrec::model::wire::{Body, NoLookup, Place};

use super::workload;

/// All transactions, one after the other, the messages of each numbered from 1 on. The last but one is acknowledged.
pub(super) fn transactions(containers: usize) -> Vec<u8> {
    let topology = parse(&[Source::new("w.toml", workload::topology(containers))]).expect("the workload is valid");
    let nothing = Observed { looked: true, ..Observed::default() };
    let prepared = decide(Target::Topology(&topology), nothing).expect("a plan");
    let to_nftables = |step: &&Step| step.parts.iter().any(|(_, place)| *place == Place::Netfilter);
    let said = prepared.plan.steps.iter().filter(to_nftables);
    let said =
        said.flat_map(|step| Resource::encode(&step.op, &mut NoLookup).expect("rules name nothing that is looked up"));
    let batches = said.filter_map(|message| match message.body {
        // What notes that flows are forgotten is a transaction too.
        Body::Nft(messages) | Body::Forget(_, messages) if !messages.is_empty() => Some(messages),
        _ => None,
    });
    batches.flat_map(|batch| transaction(&batch, None, 1)).collect()
}
