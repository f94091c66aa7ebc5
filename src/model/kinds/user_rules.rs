//! The table for rules of users: made once, empty, where it is missing, and from then on theirs.
//!
//! Its chains stand before those of every topology, so what is dropped in them is lost, and what is accepted goes on to
//! the topologies' own tables. It bears no mark and stays when the topologies go: whatever stands in it is not ours.

use super::firewall::compile::{BASE_CHAIN, INET, NEW_CHAIN};
use super::firewall::{CREATE, new_table, said};
use smallvec::smallvec;

use crate::model::attribute::Put as _;
use crate::model::resource::{Few, FieldChange, Kind, KindName, Need, Op, ResourceId, Thing, Wire, host};
use crate::model::wire::{Body, Facts, Lookup, Message, Missing, Owner, Place};

/// The table, where it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserRules;

impl UserRules {
    /// Its name, in the family `inet`; no topology has one of this name.
    pub const TABLE: &str = "netrec-user";

    /// Its chains, each at the hook of its name (`NF_INET_*`) and right before those of the topologies by priority. What
    /// comes to a published port is seen by the first as it was sent, and from then on as it was mapped.
    const CHAINS: [(&str, u32, i32); 4] =
        [("prerouting", 0, -110), ("input", 1, -10), ("forward", 2, -10), ("output", 3, -10)];
}

impl Kind for UserRules {
    fn id(&self) -> ResourceId {
        ResourceId::new(&host(), KindName::UserRules, Self::TABLE)
    }

    fn needs(&self) -> Few<Need> {
        Few::new()
    }

    fn provides(&self) -> Few<Thing> {
        Few::new()
    }

    fn changes(&self, _: &Self) -> Vec<FieldChange> {
        Vec::new()
    }

    fn summary(&self) -> String {
        "empty, for your rules, which netrec never touches".into()
    }

    fn stays(&self) -> bool {
        true
    }
}

impl Wire for UserRules {
    fn places(_: &Op<&Self>) -> Few<Place> {
        smallvec![Place::Netfilter]
    }

    fn encode(op: &Op<&Self>, _: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let own = Self::TABLE.into();
        let chain = |(name, hook, priority): (&str, u32, i32)| {
            let mut out = Vec::new();
            out.put_text(3, name);
            out.put_nest(4, |out| out.put_number(1, hook).put_number(2, priority.cast_unsigned()));
            out.put_text(7, "filter").put_number(10, BASE_CHAIN);
            said(&own, INET, (NEW_CHAIN, CREATE), out)
        };
        let Op::Create(_) = op else { return Ok(Vec::new()) };
        let table = new_table(&own, INET, CREATE);
        let batch = std::iter::once(table).chain(Self::CHAINS.map(chain)).collect();
        Ok(vec![Message { place: Place::Netfilter, body: Body::Nft(batch) }])
    }

    fn observe(facts: &Facts, _: &Owner) -> Vec<Self> {
        facts.user_rules.then_some(Self).into_iter().collect()
    }
}
