//! Random stories: a file that somebody edits again and again, applying it now and then while others take things away.
//!
//! A story is a list of edits, so that proptest makes a failing one shorter; it prints as the files that were applied.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write as _};

use netrec::model::parse::parse;
use netrec::model::source::Source;
use netrec::model::topology::Topology;
use proptest::prelude::*;
use proptest::sample::Index;

/// One stroke of the editor, or what happens beside it. Whom it concerns is chosen among what is there at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit {
    /// A new table of a section: its name, and what it begins with.
    Add(Index, Index, [Index; 2]),
    /// A table goes, and with it the endpoints that name it.
    Remove(Index),
    /// A table gets another name, also where endpoints name it.
    Rename(Index, Index),
    /// A key of a table gets a value.
    Set(Index, Index, Index),
    /// A key of a table goes.
    Unset(Index, Index),
    /// Two tables of a section exchange the values of a key.
    Exchange([Index; 2], Index),
    /// Two ranges of addresses are exchanged wherever they stand.
    Renumber(Index, Index),
    /// The file is applied.
    Apply,
    /// Everything is destroyed.
    Destroy,
    /// One of our things is removed by somebody else.
    Drift(Index),
}

/// A list of edits, and whether the host is one that others use too.
#[derive(Clone)]
pub(crate) struct Story {
    pub edits: Vec<Edit>,
    pub busy_host: bool,
    /// Steps that fail, by their number since the beginning; only the simulated kernel obeys.
    pub faults: Vec<usize>,
}

/// What happens in a story, the file written out.
pub(crate) enum Event {
    /// This is applied.
    Apply(String),
    /// Everything is destroyed.
    Destroy,
    /// The nth of what is there goes, by somebody else.
    Drift(Index),
}

impl Story {
    /// Stories in which so many steps fail at most.
    pub(crate) fn any(faults: usize) -> impl Strategy<Value = Self> {
        let edits = prop::collection::vec(edit(), 1..60);
        let faults = prop::collection::vec(0..400_usize, 0..=faults);
        (edits, any::<bool>(), faults).prop_map(|(edits, busy_host, faults)| Self { edits, busy_host, faults })
    }

    /// What happens, in order. An edit that leaves the file invalid is taken back, as its author would.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut file = File::default();
        let mut events = Vec::new();
        for edit in self.edits.iter().copied().chain([Edit::Apply]) {
            match edit {
                Edit::Apply if !file.tables.is_empty() => events.push(Event::Apply(file.text())),
                Edit::Apply => {}
                Edit::Destroy => events.push(Event::Destroy),
                Edit::Drift(which) => events.push(Event::Drift(which)),
                _ => {
                    let mut edited = file.clone();
                    edited.edit(edit);
                    if edited.tables.is_empty() || read(&edited.text()).is_some() {
                        file = edited;
                    }
                }
            }
        }
        events
    }
}

impl Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "a story on {} host, steps {:?} fail",
            if self.busy_host { "a busy" } else { "an empty" },
            self.faults
        )?;
        for event in self.events() {
            match event {
                Event::Apply(text) => writeln!(f, "== apply\n{text}")?,
                Event::Destroy => writeln!(f, "== destroy")?,
                Event::Drift(which) => writeln!(f, "== somebody removes {which:?}")?,
            }
        }
        Ok(())
    }
}

/// The topology that a text says, if it is valid.
pub(crate) fn read(text: &str) -> Option<Topology> {
    parse(&[Source::new("random.toml", text)]).ok()
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    prop_oneof![
        8 => (index(), index(), [index(), index()]).prop_map(|(section, name, with)| Edit::Add(section, name, with)),
        2 => index().prop_map(Edit::Remove),
        1 => (index(), index()).prop_map(|(table, name)| Edit::Rename(table, name)),
        10 => (index(), index(), index()).prop_map(|(table, key, value)| Edit::Set(table, key, value)),
        2 => (index(), index()).prop_map(|(table, key)| Edit::Unset(table, key)),
        4 => ([index(), index()], index()).prop_map(|(tables, key)| Edit::Exchange(tables, key)),
        1 => (index(), index()).prop_map(|(one, other)| Edit::Renumber(one, other)),
        4 => Just(Edit::Apply),
        1 => index().prop_map(Edit::Drift),
        1 => prop_oneof![5 => Just(Edit::Apply), 1 => Just(Edit::Destroy)],
    ]
}

/// Sections, the names that tables in them may have, and what each key may be; `K` stands for the number of the range
/// that the network in question has its subnets in. Longest names included: lines must hold them.
const SECTIONS: [Section; 4] = [
    Section { word: "networks", names: NETWORKS, keys: NETWORK_KEYS },
    Section { word: "containers", names: CONTAINERS, keys: CONTAINER_KEYS },
    Section { word: "endpoints", names: ENDPOINTS, keys: ENDPOINT_KEYS },
    Section { word: "pools", names: &[""], keys: POOL_KEYS },
];

struct Section {
    word: &'static str,
    names: &'static [&'static str],
    keys: Keys,
}

const NETWORKS: &[&str] =
    &["front", "back", "lan", "mail", "ops", "a-network-whose-name-is-as-long-as-a-name-can-possibly-be-in-he"];
const CONTAINERS: &[&str] = &[
    "api",
    "db",
    "web",
    "cache",
    "job",
    "proxy",
    "queue",
    "a-container-whose-name-is-as-long-as-a-name-can-possibly-be-her",
];
const ENDPOINTS: &[&str] =
    &["a", "b", "c", "d", "e", "f", "g", "h", "i", "an-endpoint-whose-name-is-as-long-as-a-name-can-possibly-be-her"];

/// Keys whose values are words.
const WORDS: &[&str] = &["driver", "netns", "container", "network", "mac", "ifname"];

type Keys = &'static [(&'static str, &'static [&'static str])];

const NETWORK_KEYS: Keys = &[
    ("driver", &["bridge", "none", "host"]),
    ("subnets", SUBNETS),
    ("subnets", SUBNETS),
    ("gateways", &[r#"["10.1K.0.9"]"#, r#"["10.1K.0.2", "fd1K::fe"]"#, r#"["fd1K::2"]"#, "[]"]),
    ("reserved", &[r#"["10.1K.0.5", "10.1K.0.6"]"#, r#"["fd1K::5"]"#]),
    ("ipv4", FLAG),
    ("ipv6", FLAG),
    ("internal", FLAG),
    ("masquerade", FLAG),
    ("snat", &[r#"["192.0.2.7"]"#, r#"["192.0.2.7", "2001:db8::7"]"#, "[]"]),
    ("publish_address", &[r#"["127.0.0.1"]"#, r#"["192.0.2.7", "2001:db8::7"]"#, r#"["0.0.0.0"]"#]),
    ("mtu", &["1500", "1280", "9000", "576"]),
    ("mtu", &["1500", "1400", "65535"]),
    ("icc", FLAG),
    ("host_access", FLAG),
    ("host_address", FLAG),
    ("open", FLAG),
    (
        "bridge",
        &[
            r#"{ name = "br0" }"#,
            r#"{ name = "br-fifteen-long" }"#,
            r#"{ name = "br.5" }"#,
            r#"{ name = "br-office", external = true }"#,
            "{}",
        ],
    ),
];
const SUBNETS: &[&str] = &[
    r#"["10.1K.0.0/24", "fd1K::/64"]"#,
    r#"["10.1K.0.0/24"]"#,
    r#"["fd1K::/64"]"#,
    r#"["10.1K.0.0/25", "10.1K.0.128/25", "fd1K::/64", "fd1K:0:0:1::/64"]"#,
    r#"["10.1K.0.0/29", "fd1K::/125"]"#,
    r#"["10.1K.0.0/16"]"#,
];
const FLAG: &[&str] = &["true", "false"];
const CONTAINER_KEYS: Keys = &[("netns", &["api", "db", "web", "n1", "n2", "n3", "theirs"]), ("create", FLAG)];
const ENDPOINT_KEYS: Keys = &[
    ("container", CONTAINERS),
    ("network", NETWORKS),
    ("addresses", &[r#"["10.1K.0.10"]"#, r#"["10.1K.0.11", "fd1K::11"]"#, r#"["fd1K::12"]"#, r#"["10.1K.0.3"]"#]),
    (
        "addresses",
        &[r#"["10.1K.0.12", "10.1K.0.13", "10.1K.0.140"]"#, r#"["10.1K.0.4", "fd1K::4", "fd1K:0:0:1::4"]"#, "[]"],
    ),
    ("ipv4", FLAG),
    ("ipv6", FLAG),
    ("mac", &["02:00:00:00:00:01", "02:00:00:00:00:02", "0e:11:22:33:44:55"]),
    ("ifname", &["eth0", "eth1", "lan", "fifteen-letters", "eth0.5"]),
    ("aliases", &[r#"["db.shop.internal"]"#]),
    ("gateway_priority", &["0", "-1", "10"]),
    ("publish", PUBLISHES),
    ("publish", PUBLISHES),
    (
        "routes",
        &[
            r#"[{ to = "198.51.100.0/24", via = "10.1K.0.77" }]"#,
            r#"[{ to = "198.51.100.0/24", via = "10.1K.0.78" }, { to = "2001:db8:5::/48", via = "fd1K::77" }]"#,
            r#"[{ to = "203.0.113.0/24" }, { to = "198.51.100.0/24", via = "10.1K.0.77", metric = 7 }]"#,
            r#"[{ to = "0.0.0.0/0", via = "10.1K.0.77" }, { to = "::/0", via = "fd1K::77", metric = 9 }]"#,
            r#"[{ to = "::/0", via = "fd1K::77" }]"#,
            r#"[{ to = "192.0.2.128/25" }, { to = "2001:db8:6::/48" }]"#,
            "[]",
        ],
    ),
];
const PUBLISHES: &[&str] = &[
    r#"["8080:80"]"#,
    r#"["8080:8080", "8443:443"]"#,
    r#"["127.0.0.1:5353:53/udp"]"#,
    r#"["9000-9010:9000-9010", "[::]:9100-9103:80-83"]"#,
    r#"["80", "81-83/sctp"]"#,
    r#"["192.0.2.7:25:25", "[2001:db8::7]:25:25"]"#,
    r#"["61000-61010:61000-61010/udp"]"#,
    "[]",
];
const POOL_KEYS: Keys = &[
    ("ipv4", &[r#"["10.64.0.0/16"]"#, r#"["172.20.0.0/24", "172.21.0.0/24"]"#, r#"["10.10.0.0/15"]"#]),
    ("ipv4_prefix", &["24", "26", "28"]),
    ("ipv6", &[r#"["fd99::/48"]"#]),
    ("ipv6_prefix", &["64", "80"]),
];

/// Tables by section and name, and the values of their keys as they stand in the file.
#[derive(Clone, Default)]
struct File {
    tables: BTreeMap<(usize, String), BTreeMap<&'static str, String>>,
}

const NETWORK: usize = 0;
const CONTAINER: usize = 1;
const ENDPOINT: usize = 2;

impl File {
    fn text(&self) -> String {
        let mut text = String::from("topology = \"random\"\ndocker_user = true\n");
        for ((section, name), keys) in &self.tables {
            let word = SECTIONS[*section].word;
            let _ = writeln!(text, "[{word}{}{name}]", if name.is_empty() { "" } else { "." });
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }

    fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::Add(section, name, with) => self.add(section, name, with),
            Edit::Remove(table) => {
                if let Some((section, name)) = self.pick(table) {
                    self.tables.remove(&(section, name.clone()));
                    self.tables
                        .retain(|_, keys| reference(section).is_none_or(|key| keys.get(key) != Some(&quoted(&name))));
                }
            }
            Edit::Rename(table, name) => {
                let Some((section, old)) = self.pick(table) else { return };
                let name = *name.get(SECTIONS[section].names);
                let Some(keys) = self.tables.remove(&(section, old.clone())) else { return };
                self.tables.entry((section, name.into())).or_insert(keys);
                let Some(reference) = reference(section) else { return };
                for value in self.tables.values_mut().filter_map(|keys| keys.get_mut(reference)) {
                    if *value == quoted(&old) {
                        *value = quoted(name);
                    }
                }
            }
            Edit::Set(table, key, value) => {
                let Some(id) = self.pick(table) else { return };
                let (key, values) = key.get(SECTIONS[id.0].keys);
                let value = *value.get(values);
                let value = if WORDS.contains(key) { quoted(value) } else { self.literal(&id, value) };
                self.tables.entry(id).or_default().insert(key, value);
            }
            Edit::Unset(table, key) => {
                let Some(id) = self.pick(table) else { return };
                let keys = self.tables.entry(id).or_default();
                let present: Vec<&str> = keys.keys().copied().collect();
                if !present.is_empty() {
                    keys.remove(*key.get::<&str>(&present));
                }
            }
            Edit::Exchange([one, other], key) => self.exchange(one, other, key),
            Edit::Renumber(one, other) => self.renumber(one.index(RANGES), other.index(RANGES)),
            Edit::Apply | Edit::Destroy | Edit::Drift(_) => unreachable!("no edits of the file"),
        }
    }

    fn add(&mut self, section: Index, name: Index, [first, second]: [Index; 2]) {
        // Endpoints twice as often as what they join; pools seldom.
        let section = [ENDPOINT, NETWORK, CONTAINER, ENDPOINT, NETWORK, CONTAINER, ENDPOINT, 3][section.index(8)];
        let (id, mut keys) = ((section, String::from(*name.get(SECTIONS[section].names))), BTreeMap::new());
        match section {
            NETWORK => {
                keys.insert("driver", quoted("bridge"));
                if second.index(4) > 0 {
                    let free = (0..RANGES).find(|range| !self.text().contains(&format!("10.1{range}.")));
                    let range = free.unwrap_or_default().to_string();
                    keys.insert("subnets", first.get(SUBNETS).replace('K', &range));
                }
            }
            CONTAINER => {
                let own = if id.1.len() > 40 { quoted("long") } else { quoted(&id.1) };
                keys.insert("netns", own);
            }
            ENDPOINT => {
                for (section, key, index) in [(CONTAINER, "container", first), (NETWORK, "network", second)] {
                    let names: Vec<&String> =
                        self.tables.keys().filter(|(of, _)| *of == section).map(|(_, name)| name).collect();
                    if names.is_empty() {
                        return;
                    }
                    keys.insert(key, quoted(index.get::<&String>(&names)));
                }
            }
            _ => {}
        }
        self.tables.entry(id).or_insert(keys);
    }

    fn exchange(&mut self, one: Index, other: Index, key: Index) {
        let Some(one) = self.pick(one) else { return };
        let mates: Vec<_> = self.tables.keys().filter(|id| id.0 == one.0).cloned().collect();
        let other = other.get(&mates).clone();
        let (key, _) = key.get(SECTIONS[one.0].keys);
        let values = [&one, &other].map(|id| self.tables.get_mut(id).and_then(|keys| keys.remove(key)));
        for (id, value) in [other, one].into_iter().zip(values) {
            if let Some(value) = value {
                self.tables.entry(id).or_default().insert(key, value);
            }
        }
    }

    fn renumber(&mut self, one: usize, other: usize) {
        for value in self.tables.values_mut().flat_map(BTreeMap::values_mut) {
            for head in ["10.1", "fd1"] {
                *value = value
                    .replace(&format!("{head}{one}"), &format!("{head}?"))
                    .replace(&format!("{head}{other}"), &format!("{head}{one}"))
                    .replace(&format!("{head}?"), &format!("{head}{other}"));
            }
        }
    }

    fn pick(&self, index: Index) -> Option<(usize, String)> {
        let ids: Vec<_> = self.tables.keys().collect();
        (!ids.is_empty()).then(|| (*index.get(&ids)).clone())
    }

    /// A value as it stands in the file: the range is that of the network.
    fn literal(&self, (section, name): &(usize, String), value: &str) -> String {
        let keys = &self.tables[&(*section, name.clone())];
        let network = if *section == ENDPOINT { keys.get("network").cloned() } else { Some(quoted(name)) };
        let network = network.map(|name| (NETWORK, name.trim_matches('"').to_owned()));
        let subnets = network.and_then(|id| self.tables.get(&id)?.get("subnets"));
        let range = subnets.and_then(|text| text.split_once("10.1").or_else(|| text.split_once("fd1")));
        let range = range.and_then(|(_, rest)| rest.chars().next()).unwrap_or('0');
        value.replace('K', &range.to_string())
    }
}

/// How many ranges of addresses there are; the host of others uses the last.
const RANGES: usize = 7;

/// The key by which endpoints name a table of the section.
fn reference(section: usize) -> Option<&'static str> {
    match section {
        NETWORK => Some("network"),
        CONTAINER => Some("container"),
        _ => None,
    }
}

/// What stands in a table of a file.
pub(crate) fn table<'a>(text: &'a str, section: &str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("[{section}.{name}]\n"))?;
    Some(rest.split("\n[").next().unwrap_or(rest).trim_end())
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}
