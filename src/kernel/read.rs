//! One complete look at the host and the namespaces that concern a topology.
//!
//! Namespaces are opened, asked and closed one after the other: a socket or descriptor kept open would pin a container's
//! namespace and hide its death.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use rtnetlink::packet_route::nsid::NsidAttribute;

use super::ask::{LOOPBACK, MAIN, QUESTIONS, addresses, all, links, main_routes, nsid, routes};
use super::memory::{Host, Memory};
use super::netlink::{Protocol, Socket};
use super::netns::{self, Found, Identity, Listing, Visitor};
use super::{KernelError, decode, descriptors, sysctl};
use crate::beside;
use crate::model::kinds::sysctl::Sysctl;
use crate::model::lower::route_localnet;
use crate::model::resource::{self, HOST, Text};
use crate::model::wire::{
    Absent, Facts, LinkFacts, NetnsFacts, NetnsOrigin, NetnsRef, PROTOCOL, RULED, RouteFacts, Scope,
};

pub(super) use host::{Ahead, sees_host};

mod host;

/// Below that many namespaces one thread is as quick.
const PARALLEL_FROM: usize = 8;
/// That many more are looked at together with all that is known.
const MANY: usize = 16;
/// From that many on a thread of their own pays, beside the look at nftables and the host.
const BESIDE_FROM: usize = 4;
/// More threads than that only wait for the kernel's lock.
const THREADS: usize = 4;

/// Looks at everything in the scope, and at the namespaces of other names that bear the owner's mark; without nftables,
/// whose fields stay empty.
///
/// A container whose name stands for a file of ours without a namespace is both absent and among the namespaces, as
/// `Unbound`; under anybody else's file it is `Taken`.
/// One that is the host itself, or the same namespace as a container before it in order of names, is absent.
///
/// # Errors
///
/// When any part could not be read completely: there are no partial facts.
pub fn facts(scope: &Scope) -> Result<Facts, KernelError> {
    recall(scope, &mut Memory::default(), || ()).map(|(facts, ())| facts)
}

/// The same, but of what is in the memory nothing is asked again. What was seen is added to it. Something else is looked at
/// beside it.
pub(super) fn recall<B>(
    scope: &Scope,
    memory: &mut Memory,
    beside: impl FnOnce() -> B,
) -> Result<(Facts, B), KernelError> {
    descriptors::raise_limit();
    let own = netns::own()?;
    let look = Look { scope, own: netns::identity(own.as_fd())? };
    let (facts, beside) = match look.refresh(memory)? {
        Some(facts) => (facts, beside()),
        None => look.everywhere(memory, beside)?,
    };
    memory.keep_gathered(&facts);
    Ok((facts, beside))
}

/// A namespace to go to.
enum Job<'a> {
    Container(&'a Text, &'a NetnsRef),
    /// A name outside of the scope: ours only if it bears the mark.
    Other(NetnsRef),
}

/// What was found there.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Namespace(Identity, Arc<NetnsFacts>, Vec<(Text, Text)>),
    Unbound(String),
    Absent(Absent),
    /// None of our business.
    Foreign(Option<Identity>),
}

impl Job<'_> {
    fn reference(&self) -> &NetnsRef {
        match self {
            Self::Container(_, netns) => netns,
            Self::Other(netns) => netns,
        }
    }

    /// Known without going there: nothing has its name.
    fn absent(&self, listing: &Listing) -> Option<Seen> {
        let Self::Container(_, NetnsRef::Named(name)) = self else { return None };
        listing.lacks(name).then(|| Seen::Absent(Absent::Missing(netns::nobody(name))))
    }
}

struct Look<'a> {
    scope: &'a Scope,
    own: Identity,
}

impl<'a> Look<'a> {
    /// The last look with what was forgotten of it asked again, if no namespace went or is another one, and all ends are in
    /// sight. Containers that came along are asked as well.
    fn refresh(&self, memory: &mut Memory) -> Result<Option<Facts>, KernelError> {
        let Some((mut facts, forgotten)) = memory.take_gathered() else { return Ok(None) };
        let mut ends_moved = false;
        let job =
            |(name, netns): (&'a Text, &'a NetnsRef)| Some((name, Job::Container(name, netns), forgotten.get(netns)?));
        let jobs: Vec<_> = self.scope.found_by(forgotten.keys()).into_iter().filter_map(job).collect();
        let new = jobs.iter().filter(|(.., before)| before.is_none()).count();
        if jobs.len() != forgotten.len() || new >= MANY {
            return Ok(None);
        }
        let seen = netns::visit(&jobs, others(jobs.len(), false), |visitor, (_, job, _)| self.visit(visitor, job));
        let seen = seen.into_iter().collect::<Result<Vec<Seen>, _>>()?;
        memory.keep(jobs.iter().zip(&seen).map(|((_, job, _), seen)| (job.reference(), seen)));
        for ((name, _, before), seen) in jobs.iter().zip(seen) {
            match (before, seen) {
                (Some(before), Seen::Namespace(found, ..)) if found != *before => return Ok(None),
                // Behind two names of the scope stands one namespace.
                (_, Seen::Namespace(found, ..)) if new > 0 && memory.met_twice(found) => return Ok(None),
                (Some(_), _) if facts.absent.contains_key(*name) => return Ok(None),
                (None, _) if facts.namespaces.contains_key(*name) => return Ok(None),
                (_, Seen::Namespace(_, inside, values)) => {
                    facts.absent.remove(*name);
                    ends_moved |= put(&mut facts, name, inside, values);
                }
                (None, Seen::Absent(why @ Absent::Missing(_))) => drop(facts.absent.insert((*name).clone(), why)),
                _ => return Ok(None),
            }
        }
        let Host { facts: host, sysctls } = self.remembered_host(memory)?;
        ends_moved |= put(&mut facts, &resource::host(), host, sysctls);
        let whole = !ends_moved || (facts.strays().next().is_none() && self.behind_lost_ends(&facts).is_empty());
        Ok(whole.then_some(facts))
    }

    fn everywhere<B>(&self, memory: &mut Memory, beside: impl FnOnce() -> B) -> Result<(Facts, B), KernelError> {
        let listing = netns::Listing::take()?;
        let jobs = self.jobs(&listing);
        let known = |job: &Job| memory.namespace(job.reference()).or_else(|| job.absent(&listing));
        let known: Vec<Option<Seen>> = jobs.iter().map(known).collect();
        let unknown: Vec<&Job> =
            jobs.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(job, _)| job).collect();
        let (news, (beside, host)) = netns::visit_beside(
            &unknown,
            others(unknown.len(), true),
            |visitor, job| self.visit(visitor, job),
            // In that order: a dump of the host's links holds the lock that the others wait for.
            || (beside(), self.remembered_host(memory)),
        );
        let mut facts = Facts { ipv6_fixed: sysctl::ipv6_fixed(), ..Facts::default() };
        let Host { facts: host, sysctls } = host?;
        put(&mut facts, &resource::host(), host, sysctls);
        let news = news.into_iter().collect::<Result<Vec<Seen>, _>>()?;
        memory.keep(unknown.iter().zip(&news).map(|(job, seen)| (job.reference(), seen)));
        let mut news = news.into_iter();
        let seen = known.into_iter().map(|known| known.or_else(|| news.next()).expect("what is not known was visited"));
        let mut met = gather(&mut facts, jobs.into_iter().zip(seen))?;
        self.for_lost_ends(&mut facts, &mut met)?;
        Ok((facts, beside))
    }

    fn jobs(&self, listing: &Listing) -> Vec<Job<'a>> {
        let asked: BTreeSet<&str> =
            self.scope.containers.values().filter_map(NetnsRef::name).map(|name| &**name).collect();
        let others = listing.names().filter(|name| !asked.contains(name));
        let containers = self.scope.containers.iter().map(|(name, netns)| Job::Container(name, netns));
        containers.chain(others.map(|name| Job::Other(NetnsRef::Named(name.into())))).collect()
    }

    fn remembered_host(&self, memory: &mut Memory) -> Result<Host, KernelError> {
        let host = match memory.take_host() {
            Some((host, None)) => host,
            Some((host, Some(again))) => {
                let now = self.settings(host::look_again(&host.facts, &again)?)?;
                // Whoever compares sees at a glance that nothing is otherwise.
                Host { facts: if now.facts == host.facts { host.facts } else { now.facts }, ..now }
            }
            None => self.settings(memory.ahead.take().map_or_else(host::look, Ahead::end)?)?,
        };
        memory.keep_host(&host);
        Ok(host)
    }

    /// Adds the settings of the host that are looked for.
    fn settings(&self, host: NetnsFacts) -> Result<Host, KernelError> {
        let of_links = host::accept_ra(&host).into_iter().chain(self.route_localnet(&host));
        let names: BTreeSet<Text> =
            self.wanted(HOST).cloned().chain(of_links).chain([Sysctl::disable_ipv6(None)]).collect();
        let sysctls = sysctl::values(&names)?;
        Ok(Host { facts: Arc::new(host), sysctls })
    }

    /// Changes the namespace of its thread.
    fn visit(&self, visitor: &Visitor<'_>, job: &Job<'_>) -> Result<Seen, KernelError> {
        match job {
            Job::Container(name, netns) => match visitor.find(netns) {
                Ok(Found::Bound(fd, identity)) => {
                    let named = matches!(netns, NetnsRef::Named(_));
                    let origin = if named { NetnsOrigin::Named } else { NetnsOrigin::Given };
                    self.container(visitor, (&fd, identity), name, origin)
                }
                Ok(Found::Unbound(content)) if self.scope.owner.marked(&content) == Some(true) => {
                    Ok(Seen::Unbound(content))
                }
                Ok(Found::Unbound(_)) => {
                    let why = format!("{}/{name} is a file with no namespace behind it", netns::DIRECTORY);
                    Ok(Seen::Absent(Absent::Taken(why)))
                }
                Err(KernelError::NotANamespace(why)) if matches!(netns, NetnsRef::Named(_)) => {
                    Ok(Seen::Absent(Absent::Taken(why)))
                }
                Ok(Found::Absent(why)) | Err(KernelError::NotANamespace(why) | KernelError::BadName(why)) => {
                    Ok(Seen::Absent(Absent::Missing(why)))
                }
                Err(error) => Err(error),
            },
            Job::Other(netns) => match visitor.find(netns) {
                Ok(Found::Bound(fd, identity)) => match netns {
                    NetnsRef::Named(_) => self.other(visitor, (&fd, identity), NetnsOrigin::Named),
                    NetnsRef::Path(_) | NetnsRef::Pid(_) => self.other(visitor, (&fd, identity), NetnsOrigin::Given),
                },
                Ok(Found::Unbound(content)) if self.scope.owner.marked(&content) == Some(true) => {
                    Ok(Seen::Unbound(content))
                }
                Ok(_) | Err(KernelError::NotANamespace(_)) => Ok(Seen::Foreign(None)),
                Err(error) => Err(error),
            },
        }
    }

    fn container(
        &self,
        visitor: &Visitor<'_>,
        (fd, identity): (&OwnedFd, Identity),
        name: &str,
        origin: NetnsOrigin,
    ) -> Result<Seen, KernelError> {
        if identity == self.own {
            return Ok(Seen::Absent(Absent::Host));
        }
        if name == HOST {
            return Ok(Seen::Absent(Absent::Missing(format!("`{HOST}` is how the host itself is named"))));
        }
        visitor.enter(fd.as_fd())?;
        let mut socket = Socket::open(Protocol::Route)?;
        let links = links(&mut socket)?;
        let facts = self.inside(&mut socket, origin, links, self.scope.several.contains(name))?;
        let mut values = sysctl::values(self.wanted(name))?;
        // Where any link is without IPv6, as all of an engine's container are, others are perhaps born so.
        if facts.links.iter().any(|link| link.ipv6_off) {
            values.extend(sysctl::values(&[Sysctl::disable_ipv6(None)])?);
        }
        Ok(Seen::Namespace(identity, Arc::new(facts), values))
    }

    /// What a look sees of a container.
    fn inside(
        &self,
        socket: &mut Socket,
        origin: NetnsOrigin,
        links: Vec<LinkFacts>,
        several: bool,
    ) -> Result<NetnsFacts, KernelError> {
        let mut facts = read(socket, origin, links)?;
        // Rules of containers are mostly the kernel's own, and so is most of what other tables than `main` hold. Ours are
        // there for one of several endpoints that there are or are to be, or beside a default route of somebody else's.
        // Afterwards, as long as there is an address of the topology's, one says so.
        let owned = |index| facts.link(index).is_some_and(|link| self.scope.owner.owns(link));
        let said = |protocol| facts.addresses.iter().any(|it| it.protocol == protocol && owned(it.link));
        let theirs = |route: &RouteFacts| route.destination.prefix_len() == 0 && route.protocol != PROTOCOL;
        let elsewhere = several || facts.links.len() > 2 || said(RULED) || !said(PROTOCOL) || {
            facts.routes = main_routes(socket)?;
            facts.routes.iter().any(theirs)
        };
        if elsewhere {
            read_ways(&mut facts, socket)?;
        }
        facts.routes.retain(sees);
        Ok(facts)
    }

    /// A namespace that no container of the scope has: ours if it bears the mark, of interest if it holds a link of ours.
    fn other(
        &self,
        visitor: &Visitor<'_>,
        (fd, identity): (&OwnedFd, Identity),
        origin: NetnsOrigin,
    ) -> Result<Seen, KernelError> {
        if identity == self.own {
            return Ok(Seen::Foreign(None));
        }
        match visitor.enter(fd.as_fd()) {
            Ok(()) => {}
            // Not made by us.
            Err(KernelError::System { errno: Errno::EPERM, .. }) if netns::is_beyond(fd.as_fd()) => {
                return Ok(Seen::Foreign(Some(identity)));
            }
            Err(error) => return Err(error),
        }
        let mut socket = Socket::open(Protocol::Route)?;
        let owner = &self.scope.owner;
        let links = links(&mut socket)?;
        let marked = |link: &LinkFacts| link.index == LOOPBACK && owner.marked(&link.alias) == Some(true);
        if !links.iter().any(|link| marked(link) || owner.owns(link)) {
            return Ok(Seen::Foreign(Some(identity)));
        }
        Ok(Seen::Namespace(identity, Arc::new(self.inside(&mut socket, origin, links, false)?), Vec::new()))
    }

    /// Looks through the namespaces of all processes, once a pair of ours has its other end nowhere in sight: that of a
    /// container given by path or pid that the topology no longer has.
    fn for_lost_ends(&self, facts: &mut Facts, met: &mut BTreeMap<Identity, Text>) -> Result<(), KernelError> {
        let behind = self.behind_lost_ends(facts);
        if behind.is_empty() {
            return Ok(());
        }
        let unmet = netns::processes()?
            .into_iter()
            .filter(|(identity, _)| !met.contains_key(identity) && *identity != self.own);
        let mut socket = Socket::open(Protocol::Route)?;
        let mut jobs = Vec::new();
        for pid in unmet.filter_map(|(_, pids)| pids.first().copied()) {
            // Marks alone may be those of a topology of the same name on another host of this machine.
            if nsid(&mut socket, NsidAttribute::Pid(pid))?.is_some_and(|id| behind.contains(&id)) {
                jobs.push(Job::Other(NetnsRef::Pid(pid)));
            }
        }
        let seen = netns::visit(&jobs, 0, |visitor, job| self.visit(visitor, job));
        for (job, seen) in jobs.into_iter().zip(seen) {
            if let (Job::Other(NetnsRef::Pid(pid)), Ok(Seen::Namespace(identity, mut netns, _))) = (job, seen) {
                Arc::make_mut(&mut netns).reference = Some(NetnsRef::Pid(pid));
                let name = Facts::stray(pid);
                met.insert(identity, name.clone());
                facts.namespaces.insert(name, netns);
            }
        }
        Ok(())
    }

    /// Namespaces, by nsid, that pairs of ours lead into whose other ends are nowhere in sight.
    fn behind_lost_ends(&self, facts: &Facts) -> BTreeSet<i32> {
        let ours = |link: &&LinkFacts| self.scope.owner.owns(link);
        let containers = facts.namespaces.iter().filter(|(name, _)| &***name != HOST);
        let inside = containers.flat_map(|(_, inside)| inside.links.iter().filter(ours));
        let ends: BTreeSet<u32> = inside.filter_map(|link| link.link).collect();
        let lost = |link: &&LinkFacts| &*link.kind == "veth" && ours(link) && !ends.contains(&link.index);
        facts.host().links.iter().filter(lost).filter_map(|link| link.link_netnsid).collect()
    }

    /// The settings that let packets to the loopback be routed through our bridges, whatever these are called.
    fn route_localnet(&self, host: &NetnsFacts) -> Vec<Text> {
        let ours = host.links.iter().filter(|link| &*link.kind == "bridge" && self.scope.owner.owns(link));
        ours.map(|link| route_localnet(&link.name)).collect()
    }

    /// The settings of a namespace that are asked for.
    fn wanted(&self, netns: &str) -> impl Iterator<Item = &'a Text> {
        self.scope.sysctls.iter().filter(move |(of, _)| &**of == netns).map(|(_, name)| name)
    }
}

/// How many further threads so many namespaces are worth; the calling one may have something else to do.
fn others(namespaces: usize, busy: bool) -> usize {
    if namespaces < if busy { BESIDE_FROM } else { PARALLEL_FROM } {
        return 0;
    }
    match beside::processors() {
        1 => 0,
        processors if namespaces >= PARALLEL_FROM => processors.min(THREADS),
        _ => 1,
    }
}

/// Puts the visits together, containers first; the namespaces met, with the name that each goes by.
fn gather<'a>(
    facts: &mut Facts,
    visits: impl Iterator<Item = (Job<'a>, Seen)>,
) -> Result<BTreeMap<Identity, Text>, KernelError> {
    let mut met = BTreeMap::<Identity, Text>::new();
    let (mut there, mut others) = (Vec::new(), Vec::new());
    for (job, seen) in visits {
        match (job, seen) {
            (Job::Container(name, _), Seen::Namespace(identity, netns, values)) => {
                if let Some(first) = met.get(&identity) {
                    facts.absent.insert(name.clone(), Absent::Same(first.clone()));
                    continue;
                }
                met.insert(identity, name.clone());
                there.push((name.clone(), netns));
                facts.sysctls.extend(values.into_iter().map(|(key, value)| ((name.clone(), key), value)));
            }
            (Job::Container(name, _), Seen::Absent(why)) => {
                facts.absent.insert(name.clone(), why);
            }
            (Job::Container(name, _), Seen::Unbound(content)) => {
                let why = "its name is a file with no namespace behind it";
                facts.absent.insert(name.clone(), Absent::Missing(why.into()));
                facts.namespaces.insert(name.clone(), unbound(content));
            }
            (Job::Other(NetnsRef::Named(name)), seen) => others.push((name, seen)),
            (_, _) => {}
        }
    }
    // In order already.
    facts.namespaces.append(&mut there.into_iter().collect());
    add_others(facts, &mut met, others)?;
    Ok(met)
}

/// Adds what bears our mark and is in no scope; a name that a container has, and a second name of a container's own
/// namespace, are left alone.
fn add_others(
    facts: &mut Facts,
    met: &mut BTreeMap<Identity, Text>,
    mut others: Vec<(Text, Seen)>,
) -> Result<(), KernelError> {
    others.retain(|(name, _)| !facts.namespaces.contains_key(name) && !facts.absent.contains_key(name));
    let living = others.iter().any(|(_, seen)| matches!(seen, Seen::Namespace(..)));
    let processes = if living { netns::processes()? } else { BTreeMap::new() };
    for (name, seen) in others {
        match seen {
            Seen::Namespace(identity, mut netns, _) if !met.contains_key(&identity) => {
                if let Some(processes) = processes.get(&identity) {
                    Arc::make_mut(&mut netns).processes.clone_from(processes);
                }
                met.insert(identity, name.clone());
                facts.namespaces.insert(name, netns);
            }
            Seen::Unbound(content) => {
                facts.namespaces.insert(name, unbound(content));
            }
            Seen::Namespace(..) | Seen::Absent(_) | Seen::Foreign(_) => {}
        }
    }
    Ok(())
}

/// Puts in what was seen of a namespace; whether a link of it came or went, or has another end than before.
fn put(facts: &mut Facts, name: &Text, inside: Arc<NetnsFacts>, sysctls: Vec<(Text, Text)>) -> bool {
    let before = facts.namespaces.get(name);
    let same = before.is_some_and(|before| Arc::ptr_eq(before, &inside));
    let moved = !same && before.is_none_or(|before| !before.ends().eq(inside.ends()));
    facts.sysctls.retain(|(netns, _), _| netns != name);
    facts.sysctls.extend(sysctls.into_iter().map(|(key, value)| ((name.clone(), key), value)));
    if !same {
        facts.namespaces.insert(name.clone(), inside);
    }
    moved
}

/// Whether a look at a container keeps that route: it is of the main table, or ours in whatever table.
fn sees(route: &RouteFacts) -> bool {
    route.table == MAIN || route.protocol == PROTOCOL
}

fn unbound(content: String) -> Arc<NetnsFacts> {
    Arc::new(NetnsFacts { origin: NetnsOrigin::Unbound(content), ..NetnsFacts::default() })
}

/// Links and addresses.
fn read(socket: &mut Socket, origin: NetnsOrigin, links: Vec<LinkFacts>) -> Result<NetnsFacts, KernelError> {
    Ok(NetnsFacts { origin, links, addresses: addresses(socket)?, ..NetnsFacts::default() })
}

/// Adds rules, and the routes of all tables.
fn read_ways(facts: &mut NetnsFacts, socket: &mut Socket) -> Result<(), KernelError> {
    facts.rules = all(socket, &QUESTIONS.rules, decode::rule)?;
    facts.routes = routes(socket)?;
    Ok(())
}
