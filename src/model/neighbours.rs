//! What becomes of our packets in tables of others. An accept is final in its own table only, so what any of them drops is
//! lost; what is decided by more than links is not known beforehand and counts as not said.

use super::wire::{ChainFacts, Does, ForeignRule, LinkMatch};

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
            Does::Call { rules, returns, .. } => match decision(rules, way) {
                None if *returns => {}
                decided => return decided,
            },
        }
    }
    None
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
        assert!(!stops(false, &[call(false, &[]), last]), "a goto does not come back");
    }
}
