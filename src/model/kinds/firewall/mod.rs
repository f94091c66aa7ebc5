//! The packet filter of a topology: two nftables tables of its name, `inet` for routing, NAT and filter, `bridge` for
//! what the former never sees. One resource, because they stand and fall in one transaction.
//!
//! The rules are a skeleton (`rules`, compiled by `compile` when netrec is built) without the parts that the topology does not
//! use (`uses`); all else that it says is in the elements of its sets and maps (`elements`, on the wire in `wire`), so ten
//! thousand published ports are no rule more than one.

mod asked;
mod begin;
mod bridged;
mod compare;
pub(super) mod compile;
mod compiled;
mod definition;
mod elements;
mod evaluate;
mod expression;
mod flows;
mod language;
mod lookup;
pub(in crate::model) mod numbers;
mod packet;
mod policies;
mod reshape;
mod rules;
mod text;
mod tracing;
mod turn;
mod uses;
mod wanted;
mod wire;

use std::borrow::Cow;

pub use self::asked::Asked;
use self::compare::Fills;
pub use self::elements::{Element, Elements, Listen, Mapping, Passage, Role, Verdict};
pub use self::evaluate::{Decision, Hook, Ruleset};
pub use self::flows::{Flows, FlowsOnHost, Sent, Stale};
pub use self::packet::{Does, Packet, Service};
pub use self::policies::{Policy, TooMany, policies};
use self::rules::Skeleton;
pub use self::tracing::tracing;
use self::turn::Turn;
pub use self::uses::Uses;
pub use self::wanted::{Guard, NetworkRules, Publication, SourceNat};
use smallvec::smallvec;

use crate::model::attribute::{self, Put as _};
use crate::model::resource::{Few, FieldChange, Kind, KindName, Need, Op, ResourceId, Text, Thing, Wire, host};
use crate::model::wire::{Body, Facts, Lookup, Message, Missing, NftMessage, Owner, Place, TableFacts};

/// The two tables of a topology.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Firewall {
    /// Name of both tables: `netrec-` and the topology's.
    pub table: Text,
    /// Whether the kernel has our rules.
    pub rules: Rules,
    /// The parts of them that are there: at least those that the elements stand in, and where they are wanted just
    /// [those](Self::holding).
    pub uses: Uses,
    /// What the sets and maps hold.
    pub elements: Elements,
}

/// State of the skeleton.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rules {
    /// As netrec makes it.
    Intact,
    /// Somebody changed it: what was found first, for a person.
    Altered(String),
}

impl Firewall {
    /// What the names of all topologies' tables begin with.
    pub const PREFIX: &str = "netrec-";

    /// Tables of that name as they are made to hold such elements.
    pub fn holding(table: Text, elements: Elements) -> Self {
        Self { table, rules: Rules::Intact, uses: compiled::uses(elements.sets().into_iter()), elements }
    }

    /// Name of the tables of a topology.
    pub fn table_name(topology: &str) -> String {
        format!("{}{topology}", Self::PREFIX)
    }

    /// Names of the maps that published ports stand in.
    pub fn published_in() -> impl Iterator<Item = String> {
        let stems = ["publish", "ranges"].into_iter();
        stems.flat_map(|stem| ["4", "6", "4_at", "6_at"].map(|at| format!("{stem}{at}")))
    }

    /// The ports that the table of any topology publishes, as far as it can be read.
    pub fn published(table: &TableFacts) -> Vec<Mapping> {
        let in_set = |set: String| {
            let lists = table.elements.iter().filter(|list| attribute::is_text(list, 2, &set));
            wire::decode(&set, lists.map(Vec::as_slice)).unwrap_or_default()
        };
        let mapping = |element| if let Element::Publish(mapping) = element { Some(mapping) } else { None };
        Self::published_in().flat_map(in_set).filter_map(mapping).collect()
    }

    /// Both tables as nft would list them, to be read, and to be loaded by `nft -f`.
    pub fn text(&self) -> String {
        text::tables(self)
    }

    /// What the tables of a topology come to, if it has any.
    pub(in crate::model) fn observed(tables: &[TableFacts]) -> Option<Self> {
        let name = tables.first()?.name.clone();
        let (mut altered, mut found) = (None, Vec::new());
        // A rule can only be there with the sets that it asks, so they tell which rules have to be.
        let sets = tables.iter().flat_map(|table| &table.sets).map(|set| attribute::text(set, compare::SET_NAME));
        let uses = compiled::uses(sets);
        for (family, skeleton) in compiled::tables(group(&name), uses) {
            let Some(table) = tables.iter().find(|table| table.family == family) else {
                let gone = if family == compile::INET { "table inet is gone" } else { "table bridge is gone" };
                altered.get_or_insert_with(|| gone.to_owned());
                continue;
            };
            if let Some(difference) = compare::difference(&skeleton, table) {
                altered.get_or_insert(difference);
            }
            for (set, fills) in compare::sets(&skeleton) {
                let mut lists =
                    table.elements.iter().filter(|list| attribute::is_text(list, 2, set)).map(Vec::as_slice);
                let elements = match fills {
                    Fills::Netrec => wire::decode(set, lists),
                    // What packets leave is not asked for: an element of such a set is somebody else's.
                    Fills::Packets => lists.next().is_none().then(Vec::new),
                };
                match elements {
                    Some(elements) => found.extend(elements),
                    None => drop(altered.get_or_insert_with(|| format!("elements of {set}"))),
                }
            }
        }
        let rules = altered.map_or(Rules::Intact, Rules::Altered);
        Some(Self { table: name.into(), rules, uses, elements: found.into_iter().collect() })
    }

    /// What is said to make `to` of what is there, if anything is, in the order that a kill may cut: the rules with notes
    /// of the flows they leave stale, what has to wait for that, as the opening of what was shut, those flows, and that they
    /// are forgotten.
    fn replace(from: Option<&Self>, to: &Self) -> Vec<Message> {
        let turn = Turn::between(from, &to.elements);
        let notes = flows::stale(from, &to.elements, &turn);
        let flows = Flows::new(&notes, to);
        let forgotten = flows::forgotten(&notes);
        let notes: Elements = notes.into_iter().map(Element::Stale).collect();
        let with_notes = || {
            let elements = to.elements.iter().chain(notes.iter()).cloned().collect();
            Self { table: to.table.clone(), rules: Rules::Intact, uses: to.uses, elements }
        };
        let (mut rules, mut open) = (Vec::new(), Vec::new());
        match from {
            None => with_notes().create(CREATE | EXCLUSIVE, &mut rules),
            Some(from) if from.rules != Rules::Intact => {
                from.delete(&mut rules);
                with_notes().create(CREATE, &mut rules);
                if to.elements.iter().any(Element::closes) {
                    for skeleton in Skeleton::shut(group(&to.table)) {
                        let family = compile::family(skeleton.family);
                        rules.extend(compile::objects(&skeleton).map(|object| made(&to.table, family, object)));
                        let mut chain = Vec::new();
                        chain.put_text(3, rules::SHUT);
                        open.push(said(&to.table, family, (DELETE_CHAIN, 0), chain));
                    }
                }
            }
            Some(from) => {
                // What was noted before is in the notes again, or forgotten, and then nobody sees it any more.
                rules.extend(forgotten.iter().map(|word| wire::flush(&to.table, word.set())));
                let [first, second] = reshape::update(from, to, turn, &notes);
                rules.extend(first);
                open.extend(second);
            }
        }
        let mut said = vec![Body::Nft(rules)];
        said.extend((!open.is_empty()).then_some(Body::Nft(open)));
        if notes.iter().next().is_some() {
            let word = wire::messages(&to.table, wire::NEW_ELEMENTS, CREATE, forgotten.iter());
            said.push(Body::Forget(flows, word));
        }
        said.into_iter().map(|body| Message { place: Place::Netfilter, body }).collect()
    }

    fn delete(&self, out: &mut Vec<NftMessage>) {
        for family in [compile::INET, compile::BRIDGE] {
            // Adding what may be there makes the deletion sure to find something.
            out.push(new_table(&self.table, family, CREATE));
            out.push(said(&self.table, family, (DELETE_TABLE, 0), Vec::new()));
        }
    }

    fn create(&self, flags: u16, out: &mut Vec<NftMessage>) {
        for (family, objects) in compiled::tables(group(&self.table), self.uses) {
            out.push(new_table(&self.table, family, flags));
            out.extend(objects.into_iter().map(|object| made(&self.table, family, object)));
        }
        out.extend(wire::messages(&self.table, wire::NEW_ELEMENTS, CREATE, self.elements.iter()));
    }
}

/// The group that ports of the topology of a table are in.
fn group(table: &str) -> u32 {
    Owner::new(table.strip_prefix(Firewall::PREFIX).unwrap_or(table)).group
}

/// `NLM_F_CREATE`.
pub(super) const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`.
const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_APPEND`.
pub(super) const APPEND: u16 = 0x800;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const DELETE_CHAIN: u16 = 5;

/// No flags: dormant would mean that nothing is filtered.
pub(super) fn new_table(table: &Text, family: u8, flags: u16) -> NftMessage {
    let mut attributes = Vec::new();
    attributes.put_number(2, 0);
    said(table, family, (NEW_TABLE, flags), attributes)
}

/// The message that makes what is in a table; the table itself is made before.
fn made(table: &Text, family: u8, (message, attributes): compiled::Object) -> NftMessage {
    match message {
        compile::NEW_RULE => said(table, family, (message, CREATE | APPEND), attributes),
        // Told a size, the kernel makes room for as many at once, a mebibyte. Not told, it makes room as packets fill the
        // set, up to just that many (`nft_dynset_init`), which is what is read back.
        compile::NEW_SET if compare::remembers(&attributes) => {
            let mut untold = Vec::with_capacity(attributes.len());
            for (kind, content) in attribute::walk(&attributes).filter(|(kind, _)| *kind != definition::DESCRIPTION) {
                untold.put(kind, content);
            }
            said(table, family, (message, CREATE), untold)
        }
        _ => said(table, family, (message, CREATE), attributes),
    }
}

/// A message about a table, or what is in it.
pub(super) fn said(
    table: &Text,
    family: u8,
    (message, flags): (u16, u16),
    attributes: impl Into<Cow<'static, [u8]>>,
) -> NftMessage {
    NftMessage { message, family, flags, table: table.clone(), attributes: attributes.into() }
}

impl Kind for Firewall {
    fn id(&self) -> ResourceId {
        ResourceId::new(&host(), KindName::Firewall, self.table.clone())
    }

    fn needs(&self) -> Few<Need> {
        Few::new()
    }

    fn provides(&self) -> Few<Thing> {
        smallvec![Thing::Firewall]
    }

    fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        let mut changes = Vec::new();
        if let (Rules::Intact, Rules::Altered(what)) = (&self.rules, &observed.rules) {
            changes.push(FieldChange::in_place("rules", format!("altered ({what})"), "netrec's"));
        }
        changes.extend(self.elements.changes(&observed.elements));
        // They come and go with what stands in them, unless somebody emptied one.
        if changes.is_empty() && self.uses != observed.uses {
            changes.push(FieldChange::in_place("rules", observed.uses, self.uses));
        }
        changes
    }

    fn summary(&self) -> String {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let first = match self.elements.bridges() {
            0 => count(self.elements.guarded(), "guarded port"),
            bridges => count(bridges, "network"),
        };
        format!("{first}, {}", count(self.elements.published(), "published port"))
    }

    /// What is reached from outside, and who they take us for: host ports that netrec chose are told nowhere else.
    fn details(&self) -> Vec<String> {
        let told = self
            .elements
            .iter()
            .filter(|it| matches!(it, Element::Publish(_) | Element::Snat(..) | Element::AllowFrom(..)));
        told.map(|element| format!("{} {element}", element.field())).collect()
    }
}

impl Wire for Firewall {
    fn places(_: &Op<&Self>) -> Few<Place> {
        smallvec![Place::Netfilter]
    }

    fn encode(op: &Op<&Self>, _: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        Ok(match op {
            Op::Create(to) => Self::replace(None, to),
            Op::Update { from, to } => Self::replace(Some(from), to),
            Op::Delete(from) => {
                // The notes need a table to stand in, so it first publishes nothing any more.
                let maps = |element: &&Element| matches!(element, Element::Publish(_) | Element::Stale(_));
                let elements: Elements = from.elements.iter().filter(|element| !maps(element)).cloned().collect();
                let closed = Self { rules: Rules::Intact, elements, ..(*from).clone() };
                let closed =
                    from.elements.iter().any(|element| maps(&element)).then(|| Self::replace(Some(from), &closed));
                let mut tables = Vec::new();
                from.delete(&mut tables);
                let gone = Message { place: Place::Netfilter, body: Body::Nft(tables) };
                closed.into_iter().flatten().chain([gone]).collect()
            }
        })
    }

    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self> {
        let ours = |it: &&Self| *it.table == Self::table_name(&owner.topology);
        facts.tables.firewall().filter(ours).cloned().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_tables_they_are_does_not_depend_on_who_asks_first() {
        let table = TableFacts { name: Firewall::table_name("shop"), ..TableFacts::default() };
        let facts = Facts { tables: vec![table].into(), ..Facts::default() };
        let seen = ["bar", "shop"].map(|topology| Firewall::observe(&facts, &Owner::new(topology)).len());
        assert_eq!(seen, [0, 1]);
    }
}
