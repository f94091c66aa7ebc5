//! Accepts in docker's chain for rules of users, so that docker's own drop of what is forwarded lets ours pass.
//!
//! Each bears the topology's mark as its comment, as iptables(8) writes one; nothing else in the chain is touched. They
//! stand behind what users put there, and before the return that older dockers end the chain with.

use std::collections::BTreeSet;
use std::fmt;

use super::firewall::compile::NEW_RULE;
use super::firewall::numbers::{IPV4, IPV6};
use super::firewall::{APPEND, CREATE, said};
use smallvec::smallvec;

use crate::model::attribute::{self, LIST_ELEM, Put as _, number};
use crate::model::resource::{Few, FieldChange, Kind, KindName, Need, Op, ResourceId, Text, Thing, Wire, host};
use crate::model::wire::{Body, Facts, Lookup, Message, Missing, NftMessage, Owner, Place};

/// Which packets are accepted: by the links that they come and leave by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Accept {
    /// By which they come; none: by any.
    pub from: Option<Text>,
    /// By which they leave.
    pub to: Text,
}

/// A topology's rules in the chain of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DockerUser {
    /// Whose.
    pub topology: Text,
    /// Of the table `ip6 filter`, or of `ip filter`.
    pub ipv6: bool,
    /// What is accepted.
    pub accepts: BTreeSet<Accept>,
    /// Handle of the rule that new ones are put before; none: they are put at the end.
    pub before: Option<u64>,
    /// What stands there with the mark, by handle; none: it is not as netrec makes it.
    pub found: Vec<(u64, Option<Accept>)>,
}

const DELETE_RULE: u16 = 8;

impl DockerUser {
    /// The table, in the families `ip` and `ip6`.
    pub const TABLE: &str = "filter";
    /// The chain.
    pub const CHAIN: &str = "DOCKER-USER";
    /// What the comments of all topologies begin with.
    pub const MARK: &str = "netrec:";

    /// The comment of a rule as nft and iptables-nft keep it (libnftnl's udata.h); empty without one.
    pub fn comment(rule: &[u8]) -> &str {
        const USERDATA: u16 = 7;
        let comment = match attribute::get(rule, USERDATA) {
            Some([0, length, rest @ ..]) => rest.get(..usize::from(*length).saturating_sub(1)),
            _ => None,
        };
        std::str::from_utf8(comment.unwrap_or_default()).unwrap_or_default()
    }

    fn mark(&self) -> String {
        format!("{}{}", Self::MARK, self.topology)
    }

    /// What stands there too often, or altered.
    fn stray(&self) -> impl Iterator<Item = u64> {
        let mut met = BTreeSet::new();
        self.found.iter().filter_map(move |(handle, accept)| {
            let stray = accept.as_ref().is_none_or(|accept| !met.insert(accept));
            stray.then_some(*handle)
        })
    }

    /// Attributes that say where in the table: more is to follow.
    fn place() -> Vec<u8> {
        let mut out = Vec::new();
        out.put_text(2, Self::CHAIN);
        out
    }

    fn message(&self, message: u16, flags: u16, attributes: Vec<u8>) -> NftMessage {
        let family = if self.ipv6 { IPV6 } else { IPV4 };
        said(&Self::TABLE.into(), family, (message, flags), attributes)
    }

    fn delete(&self, handle: u64) -> NftMessage {
        let mut attributes = Self::place();
        attributes.put(3, &handle.to_be_bytes());
        self.message(DELETE_RULE, 0, attributes)
    }

    /// As iptables-nft would write it, which must be able to read it.
    fn add(&self, accept: &Accept) -> NftMessage {
        const IIFNAME: u32 = 6;
        const OIFNAME: u32 = 7;
        let by = |out: &mut Vec<u8>, key, link: &Text| {
            out.put_nest(LIST_ELEM, |out| {
                out.put_text(1, "meta").put_nest(2, |out| out.put_number(2, key).put_number(1, 1))
            });
            out.put_nest(LIST_ELEM, |out| {
                out.put_text(1, "cmp")
                    .put_nest(2, |out| out.put_number(1, 1).put_number(2, 0).put_nest(3, |out| out.put_text(1, link)))
            });
        };
        let mut attributes = Self::place();
        attributes.put_nest(4, |out| {
            if let Some(from) = &accept.from {
                by(out, IIFNAME, from);
            }
            by(out, OIFNAME, &accept.to);
            out.put_nest(LIST_ELEM, |out| {
                out.put_text(1, "immediate").put_nest(2, |out| {
                    out.put_number(1, 0).put_nest(2, |out| out.put_nest(2, |out| out.put_number(1, 1)))
                })
            })
        });
        let mark = self.mark();
        attributes.put(7, &[&[0, mark.len() as u8 + 1], mark.as_bytes(), &[0]].concat());
        if let Some(handle) = self.before {
            attributes.put(6, &handle.to_be_bytes());
        }
        let at_the_end = if self.before.is_none() { APPEND } else { 0 };
        self.message(NEW_RULE, CREATE | at_the_end, attributes)
    }
}

/// What a rule accepts, if it does nothing else; counters are of no account.
fn accept(rule: &[u8]) -> Option<Accept> {
    let (mut from, mut to, mut loaded, mut accepts) = (None, None, None, false);
    for (_, expression) in attribute::walk(attribute::get(rule, 4)?) {
        let data = attribute::get(expression, 2).unwrap_or_default();
        match attribute::text(expression, 1) {
            "meta" => loaded = number(data, 2),
            "cmp" if number(data, 2) == Some(0) => {
                let name = std::str::from_utf8(attribute::get(attribute::get(data, 3)?, 1)?).ok()?;
                let name: Text = name.strip_suffix('\0')?.trim_end_matches('\0').into();
                match loaded {
                    Some(6) => from = Some(name),
                    Some(7) => to = Some(name),
                    _ => return None,
                }
            }
            "counter" => {}
            "immediate" => {
                let verdict = attribute::get(attribute::get(data, 2)?, 2)?;
                accepts = number(data, 1) == Some(0) && number(verdict, 1) == Some(1);
            }
            _ => return None,
        }
    }
    let to = to.filter(|_| accepts)?;
    Some(Accept { from, to })
}

impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Some(from) => write!(f, "{from} to {}", self.to),
            None => write!(f, "all to {}", self.to),
        }
    }
}

impl Kind for DockerUser {
    fn id(&self) -> ResourceId {
        let name = if self.ipv6 { "ip6" } else { "ip" };
        ResourceId::new(&host(), KindName::DockerUser, name)
    }

    fn needs(&self) -> Few<Need> {
        smallvec![Need::After(Thing::Firewall)]
    }

    fn provides(&self) -> Few<Thing> {
        Few::new()
    }

    fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        let gone = observed.accepts.difference(&self.accepts).map(|it| FieldChange::in_place("accept", it, ""));
        let new = self.accepts.difference(&observed.accepts).map(|it| FieldChange::in_place("accept", "", it));
        let stray = observed.stray().map(|handle| FieldChange::in_place("rule", format!("handle {handle}"), ""));
        gone.chain(new).chain(stray).collect()
    }

    fn summary(&self) -> String {
        format!("{} accepts in {} of docker", self.accepts.len(), Self::CHAIN)
    }

    fn details(&self) -> Vec<String> {
        self.accepts.iter().map(|accept| format!("accept {accept}")).collect()
    }
}

impl Wire for DockerUser {
    fn places(_: &Op<&Self>) -> Few<Place> {
        smallvec![Place::Netfilter]
    }

    fn encode(op: &Op<&Self>, _: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let batch = match op {
            Op::Create(to) => to.accepts.iter().map(|accept| to.add(accept)).collect(),
            Op::Update { from, to } => {
                let unwanted = |(_, accept): &&(u64, Option<Accept>)| {
                    accept.as_ref().is_some_and(|accept| !to.accepts.contains(accept))
                };
                let unwanted = from.found.iter().filter(unwanted).map(|(handle, _)| *handle);
                let gone: BTreeSet<u64> = unwanted.chain(from.stray()).collect();
                let new = to.accepts.difference(&from.accepts).map(|accept| to.add(accept));
                gone.into_iter().map(|handle| from.delete(handle)).chain(new).collect()
            }
            Op::Delete(from) => from.found.iter().map(|(handle, _)| from.delete(*handle)).collect(),
        };
        Ok(vec![Message { place: Place::Netfilter, body: Body::Nft(batch) }])
    }

    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self> {
        let mark = format!("{}{}", Self::MARK, owner.topology);
        let of = |chain: &crate::model::wire::DockerFacts| {
            let ours = chain.rules.iter().filter(|rule| Self::comment(rule) == mark);
            let handle = |rule: &[u8]| attribute::get(rule, 3)?.first_chunk().map(|it| u64::from_be_bytes(*it));
            let found: Vec<_> = ours.filter_map(|rule| Some((handle(rule)?, accept(rule)))).collect();
            let accepts = found.iter().filter_map(|(_, accept)| accept.clone()).collect();
            let (topology, ipv6, before) = (owner.topology.clone(), chain.ipv6, chain.before);
            (!found.is_empty()).then_some(Self { topology, ipv6, accepts, before, found })
        };
        facts.docker.iter().filter_map(of).collect()
    }
}
