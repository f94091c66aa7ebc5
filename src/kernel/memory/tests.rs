use super::*;
use crate::model::kinds::address::Address;
use crate::model::kinds::netns::Netns;
use crate::model::kinds::sysctl::Sysctl;
use crate::model::resource::{Few, Kind};
use crate::model::wire::Label;
use crate::model::wire::Owner;

fn named(name: &str) -> NetnsRef {
    NetnsRef::Named(name.into())
}

fn scope() -> Scope {
    let containers = ["api", "db"].map(|name| (name.into(), named(name))).into();
    Scope { owner: Owner::new("t"), containers, several: BTreeSet::new(), sysctls: Vec::new() }
}

/// What a whole look leaves.
fn memory() -> Memory {
    let mut memory = Memory::default();
    memory.turn_to(&scope(), &Disturbed::anywhere());
    memory.keep_host(&Host { facts: Arc::default(), sysctls: Vec::new() });
    for (inode, name) in [(1, "api"), (2, "db"), (3, "others")] {
        memory.keep([(&named(name), &Seen::Foreign(Some((4, inode))))].into_iter());
    }
    memory.keep_gathered(&Facts::default());
    memory
}

#[test]
fn what_went_from_under_a_name_is_not_believed_later() {
    let (mut memory, api) = (memory(), named("api"));
    assert!(memory.namespace(&api).is_some());
    memory.turn_to(&scope(), &Disturbed { names: true, ..Disturbed::default() });
    assert!(memory.namespace(&api).is_none(), "nothing has that name here");
    memory.turn_to(&scope(), &Disturbed { host: true, ..Disturbed::default() });
    assert!(memory.namespace(&api).is_none());
}

/// What the next look asks again of the last one; none if it puts all together anew.
fn asked(memory: &mut Memory, scope: &Scope, disturbed: &Disturbed) -> Option<Vec<NetnsRef>> {
    memory.turn_to(scope, disturbed);
    memory.take_gathered().map(|(_, forgotten)| forgotten.into_keys().collect())
}

#[test]
fn a_look_is_put_together_anew_where_more_than_namespaces_of_the_scope_may_be_otherwise() {
    let asked_of = |disturbed: &Disturbed| asked(&mut memory(), &scope(), disturbed);
    let of = |names: &[&str]| Disturbed {
        namespaces: names.iter().map(|name| named(name)).collect(),
        ..Disturbed::default()
    };
    assert_eq!(asked_of(&of(&[])), Some(vec![]));
    assert_eq!(asked_of(&of(&["db", "api"])), Some(vec![named("api"), named("db")]));
    assert_eq!(asked_of(&of(&["api", "new"])), Some(vec![named("api"), named("new")]), "nobody has been there");
    for elsewhere in [Disturbed::anywhere(), Disturbed { names: true, ..Disturbed::default() }] {
        assert_eq!(asked_of(&elsewhere), None, "{elsewhere:?}");
    }
    let fewer = Scope { containers: [("api".into(), named("api"))].into(), ..scope() };
    assert_eq!(asked(&mut memory(), &fewer, &of(&[])), None, "a namespace is somebody else's now");
    let with = |name: &str| {
        let more = [(name.into(), named(name))]
            .into_iter()
            .chain(scope().containers.iter().map(|(name, netns)| (name.clone(), netns.clone())))
            .collect();
        asked(&mut memory(), &Scope { containers: more, ..scope() }, &of(&[]))
    };
    assert_eq!(with("web"), Some(vec![named("web")]));
    assert_eq!(with("others"), None, "it was somebody else's");
    let several = Scope { several: ["db".into()].into(), ..scope() };
    let (mut memory, nowhere) = (memory(), Disturbed::default());
    assert_eq!(asked(&mut memory, &several, &nowhere), Some(vec![named("db")]), "of more tables");
    memory.keep_gathered(&Facts::default());
    assert_eq!(asked(&mut memory, &several, &nowhere), Some(vec![]));
    memory.keep_gathered(&Facts::default());
    assert_eq!(asked(&mut memory, &scope(), &nowhere), Some(vec![named("db")]), "and of fewer again");
}

#[test]
fn of_the_host_only_links_that_were_announced_are_asked_again() {
    let again = |memory: &mut Memory, disturbed: &Disturbed| {
        assert_eq!(asked(memory, &scope(), disturbed), Some(vec![]), "the rest is as it was");
        memory.take_host().expect("it was seen").1.map(|again| (again.indexes, again.names))
    };
    let links = Disturbed { links: [7, 8].into(), ..Disturbed::default() };
    let rest = Disturbed { host: true, ..Disturbed::default() };
    assert_eq!(again(&mut memory(), &Disturbed::default()), None);
    assert_eq!(again(&mut memory(), &links), Some(([7, 8].into(), [].into())));
    assert_eq!(again(&mut memory(), &rest), Some(([].into(), [].into())));
    let mut lost = memory();
    lost.turn_to(&scope(), &Disturbed::anywhere());
    assert!(lost.take_host().is_none());
}

#[test]
fn of_what_is_written_the_links_are_asked_again_that_it_changes() {
    let again = |op: Op| {
        let mut memory = memory();
        let step = Step {
            id: op.subject().id(),
            parts: vec![(0, Place::Netns(HOST.into()))].into(),
            op,
            waits: Few::default(),
        };
        memory.written(&[step], |netns| named(netns));
        memory.take_host().map(|(_, again)| again.expect("it is of the host").names)
    };
    let setting = |key: &str| Sysctl { netns: HOST.into(), key: key.into(), value: "0".into() };
    assert_eq!(again(Op::Create(setting("net.ipv4.ip_forward").into())), None, "each link's goes with it");
    assert_eq!(again(Op::Create(setting("net.ipv6.conf.all.forwarding").into())), Some([].into()));
    let of_link = setting("net.ipv6.conf.br-front.disable_ipv6");
    assert_eq!(again(Op::Create(of_link.into())), Some(["br-front".into()].into()));
    let netns = || Netns { name: "api".into(), owner: Owner::new("t"), label: Label::of(""), bound: true, lo_up: true };
    assert_eq!(again(Op::Create(netns().into())), Some([].into()));
    assert_eq!(again(Op::Delete(netns().into())), None, "ends elsewhere go with it");
}

#[test]
fn of_an_address_that_was_refused_the_link_is_asked_again() {
    let address = Address::new(&HOST.into(), &"br-front".into(), "fd00::1/64".parse().unwrap());
    let op: Op = Op::Create(address.into());
    let step = Step { id: op.subject().id(), parts: Vec::new().into(), op, waits: Few::default() };
    let again = |result| {
        let mut memory = memory();
        memory.failed(std::slice::from_ref(&step), &[result]);
        memory.take_host().expect("it was seen").1.map(|again| again.names)
    };
    assert_eq!(again(Ok(())), None);
    assert_eq!(again(Err(KernelError::Lost(nix::errno::Errno::EACCES))), Some(["br-front".into()].into()));
}

#[test]
fn a_moment_begins_with_a_look_at_everything() {
    let since = |belief: &Belief| if let Belief::Brief { looked, .. } = belief { *looked } else { None };
    let mut belief = Belief::brief();
    assert!(belief.doubts().anywhere);
    belief.looked();
    let first = since(&belief);
    belief.after(&[Ok(())]);
    assert!(belief.doubts().is_nowhere());
    belief.looked();
    assert_eq!(since(&belief), first);
    assert!(belief.doubts().anywhere, "nothing was written");
}

#[test]
fn what_is_forgotten_stays_so_until_it_is_asked() {
    let mut memory = memory();
    memory.forget(&named("api"));
    let again = Disturbed { namespaces: [named("api")].into(), ..Disturbed::default() };
    assert_eq!(asked(&mut memory, &scope(), &again), Some(vec![named("api")]));
    assert_eq!(asked(&mut memory, &scope(), &Disturbed::default()), None, "a look that came to nothing");
}
