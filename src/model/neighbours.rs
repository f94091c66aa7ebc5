//! What becomes of our packets in tables of others. An accept is final in its own table only, so what any of them drops is
//! lost; what is decided by more than links is not known beforehand and counts as not said. And what becomes of our tables
//! where others load theirs.

use std::fmt;

use super::wire::{ChainFacts, Does, ForeignRule, LinkMatch, RulesetFacts};

/// The links by which a packet comes and leaves; none: another one than ours.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// By which it comes.
    pub from: Option<&'a str>,
    /// By which it leaves.
    pub to: Option<&'a str>,
    /// Whether it came to a published port.
    pub mapped: bool,
}

/// Whose table it is, as far as its chains tell: who is to be asked, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Docker's, which has a chain for rules of users.
    Docker,
    /// firewalld's.
    Firewalld,
    /// ufw's.
    Ufw,
    /// Somebody's.
    Unknown,
}

/// What it is called to a person.
impl fmt::Display for ChainFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} of table {} {}", self.chain, self.family, self.table)
    }
}

impl ChainFacts {
    /// Whether a packet is dropped here unless a rule that looks at more than links accepts it: by the policy, or by a
    /// rule at the end, as firewalld does.
    pub fn stops(&self, way: Way) -> bool {
        !decision(&self.rules, way).unwrap_or(!self.drops)
    }

    /// Whose table it is in.
    pub fn whose(&self) -> Whose {
        let calls = |name: &str| {
            self.rules.iter().any(|rule| matches!(&rule.does, Does::Call { chain, .. } if chain.starts_with(name)))
        };
        match () {
            () if self.table == "firewalld" => Whose::Firewalld,
            () if calls("DOCKER-USER") => Whose::Docker,
            () if calls("ufw") => Whose::Ufw,
            () => Whose::Unknown,
        }
    }
}

/// Whether it is accepted, if the rules decide.
fn decision(rules: &[ForeignRule], way: Way) -> Option<bool> {
    let holds = |rule: &&ForeignRule| {
        !rule.depends && (way.mapped || !rule.mapped) && rule.links.iter().all(|link| matches(link, way))
    };
    for rule in rules.iter().filter(holds) {
        match &rule.does {
            Does::Nothing => {}
            Does::Accept => return Some(true),
            Does::Drop => return Some(false),
            Does::Return => return None,
            Does::Call { rules, returns, .. } => match decision(up_to_return(rules), way) {
                None if *returns => {}
                decided => return decided,
            },
        }
    }
    None
}

/// Rules of a called chain that are met by all: those before a return that looks at more than links.
fn up_to_return(rules: &[ForeignRule]) -> &[ForeignRule] {
    let some = |rule: &ForeignRule| rule.depends && rule.does == Does::Return;
    rules.split(some).next().unwrap_or_default()
}

fn matches(link: &LinkMatch, way: Way) -> bool {
    let mut name = [0; 16];
    let own = if link.out { way.to } else { way.from };
    let same = own.is_some_and(|own| {
        name.iter_mut().zip(own.bytes()).for_each(|(to, from)| *to = from);
        name.starts_with(&link.name)
    });
    same != link.not
}

/// A statement of a file of rules for nft that takes away everybody's tables before it makes its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flush {
    /// The service that reads the file.
    pub unit: &'static str,
    /// The file, and the number of the line.
    pub place: (&'static str, usize),
    /// The tables that the file makes itself, as `FAMILY NAME`.
    pub own: Vec<String>,
}

impl Flush {
    /// The last one of a file, which takes away all that stands before it.
    pub fn of(file: &RulesetFacts) -> Option<Self> {
        let (mut line, mut own) = (None, Vec::new());
        for (at, text) in file.text.lines().enumerate() {
            let bare = bare(text);
            for statement in bare.split(';') {
                let words = statement.split(|c: char| c.is_whitespace() || c == '{').filter(|word| !word.is_empty());
                match words.collect::<Vec<_>>()[..] {
                    // Without a family it is of all.
                    ["flush", "ruleset"] | ["flush", "ruleset", "inet" | "bridge"] => line = Some(at + 1),
                    ["add" | "create", "table", ref table @ ..] | ["table", ref table @ ..] => {
                        own.extend(named(table).filter(|table| !own.contains(table)));
                    }
                    _ => {}
                }
            }
        }
        line.map(|line| Self { unit: file.unit, place: (file.path, line), own })
    }
}

/// A line without what stands in quotes, and without its comment.
fn bare(line: &str) -> String {
    let mut quoted = false;
    let said = |letter: &char| {
        quoted ^= *letter == '"';
        !quoted
    };
    line.chars().filter(said).take_while(|letter| *letter != '#').collect()
}

/// The table that words name; without a family it is of `ip`.
fn named(words: &[&str]) -> Option<String> {
    match words {
        [family @ ("ip" | "ip6" | "inet" | "arp" | "bridge" | "netdev"), name, ..] => Some(format!("{family} {name}")),
        [name, ..] => Some(format!("ip {name}")),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(out: bool, not: bool, name: &[u8]) -> LinkMatch {
        LinkMatch { out, not, name: name.to_vec() }
    }

    fn rule(links: &[LinkMatch], depends: bool, does: Does) -> ForeignRule {
        ForeignRule { links: links.to_vec(), depends, does, ..ForeignRule::default() }
    }

    fn call(returns: bool, rules: &[ForeignRule]) -> ForeignRule {
        rule(&[], false, Does::Call { chain: "sub".into(), returns, rules: rules.to_vec() })
    }

    fn stops(drops: bool, rules: &[ForeignRule]) -> bool {
        let (family, table, chain, hook) = ("ip".into(), "t".into(), "c".into(), "forward".into());
        let chain = ChainFacts { family, table, chain, hook, priority: 0, drops, maps: false, rules: rules.to_vec() };
        chain.stops(Way { from: Some("br-front"), to: None, mapped: false })
    }

    #[test]
    fn a_file_of_rules_flushes_what_is_ours() {
        let flush = |text: &str| {
            let file = RulesetFacts { unit: "nftables.service", path: "/etc/nftables.conf", text: text.into() };
            Flush::of(&file).map(|flush| (flush.place.1, flush.own.join(", ")))
        };
        let found = |line, own: &str| Some((line, own.to_owned()));
        assert_eq!(
            flush("#!/usr/sbin/nft -f\n\nflush ruleset\n\ntable inet filter {\n\tchain input {\n\t}\n}\n"),
            found(3, "inet filter")
        );
        assert_eq!(
            flush("add table nat ; flush  ruleset;\ntable nat{\n}\ntable ip6 nat\n"),
            found(1, "ip nat, ip6 nat")
        );
        assert_eq!(flush("flush ruleset inet # all of it"), found(1, ""));
        assert_eq!(flush("flush ruleset bridge"), found(1, ""));
        let others =
            ["", "# flush ruleset", "flush ruleset ip", "flush table inet filter", "table inet flush {\nruleset"];
        let quoted = ["add rule t c comment \"a ; flush ruleset\"", "define a = \"#\" # ; flush ruleset"];
        assert!(others.into_iter().chain(quoted).all(|text| flush(text).is_none()));
        assert_eq!(flush("define a = \"#\"; flush ruleset"), found(1, ""));
    }

    #[test]
    fn what_no_rule_is_known_to_accept_goes_the_way_of_the_policy_or_of_the_last_rule() {
        let accept = |links: &[LinkMatch]| rule(links, false, Does::Accept);
        let last = rule(&[], false, Does::Drop);
        assert!(stops(true, &[]) && !stops(false, &[]));
        assert!(stops(false, &[rule(&[], true, Does::Accept), last.clone()]), "firewalld");
        assert!(!stops(false, &[rule(&[], true, Does::Drop)]), "what may be dropped need not be");
        assert!(!stops(true, &[accept(&[link(false, false, b"br-front\0")])]));
        assert!(!stops(true, &[accept(&[link(false, false, b"br-")])]), "a wildcard");
        assert!(stops(true, &[accept(&[link(false, false, b"br-fron\0")])]));
        assert!(stops(true, &[accept(&[link(true, false, b"br-front\0")])]));
        assert!(!stops(true, &[accept(&[link(true, true, b"docker0\0")])]));
        assert!(!stops(true, &[call(true, &[accept(&[])])]));
        assert!(stops(false, &[call(true, &[rule(&[], false, Does::Return)]), last.clone()]));
        let beyond = call(true, &[rule(&[], true, Does::Return), last.clone()]);
        assert!(
            [false, true].map(|drops| stops(drops, std::slice::from_ref(&beyond))) == [false, true],
            "ufw-not-local"
        );
        assert!(!stops(true, &[beyond, accept(&[link(false, false, b"br-front\0")])]));
        assert!(stops(false, &[rule(&[], true, Does::Return), last.clone()]), "a base chain returns to its policy");
        assert!(!stops(false, &[call(false, &[]), last]), "a goto does not come back");
    }
}
