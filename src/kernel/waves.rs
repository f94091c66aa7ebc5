//! Waves: so many namespaces at a time, with all that waits for them; and what waits for none of them.

use std::collections::BTreeSet;

use crate::model::resource::{HOST, Op, Resource, Step};
use crate::model::wire::Place;

/// The steps of each wave, in the order of the plan. All stages of a wave come before those of the next one, and nothing waits for
/// a later wave. A removal that waits for a namespace is in the last: requests that remove links wait for a grace period each, and
/// would be as many as waves.
pub(super) fn of(steps: &[Step], names: usize) -> Vec<Vec<usize>> {
    let makes_name = |step: &Step| matches!(step.op, Op::Create(Resource::Netns(_)));
    let last = steps.iter().filter(|step| makes_name(step)).count().saturating_sub(1) / names;
    let (mut waves, mut wave_of) = (vec![Vec::new(); last + 1], Vec::with_capacity(steps.len()));
    let mut made = 0;
    for (at, step) in steps.iter().enumerate() {
        let after = step.waits.iter().map(|wait| wave_of[*wait as usize]).max().unwrap_or(0);
        let wave = if makes_name(step) {
            made += 1;
            after.max((made - 1) / names)
        } else if after > 0 && matches!(step.op, Op::Delete(_)) {
            last
        } else {
            after
        };
        wave_of.push(wave);
        waves[wave].push(at);
    }
    waves
}

/// The steps of a wave that the host hears first in a stage, up to one that waits for something else than what ended before
/// the last stage, the rules of that, or each other: they may be taken while the last stage makes its namespaces.
pub(super) fn beside_names(steps: &[Step], wave: &[usize], stage: usize) -> BTreeSet<usize> {
    let host = (stage, Place::Netns(HOST.into()));
    let mut first = BTreeSet::new();
    for at in wave.iter().copied().filter(|at| steps[*at].parts.first() == Some(&host)) {
        let has_ended = |wait: &u32| match steps[*wait as usize].parts.last() {
            Some((of, Place::Netfilter)) => *of < stage,
            Some((of, _)) => of + 1 < stage || first.contains(&(*wait as usize)),
            None => true,
        };
        if !steps[at].waits.iter().all(has_ended) {
            break;
        }
        first.insert(at);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kinds::bridge::Bridge;
    use crate::model::kinds::netns::Netns;
    use crate::model::resource::{Few, Kind, Parts};
    use crate::model::values::Mac;
    use crate::model::wire::{Label, Owner};

    fn step(op: Op, waits: &[u32]) -> Step {
        Step { id: op.subject().id(), op, parts: Parts::new(), waits: Few::from_slice(waits) }
    }

    fn netns(name: &str) -> Resource {
        Netns::new(&name.into(), &Owner::new("w"), Label::default()).into()
    }

    fn bridge(name: &str) -> Resource {
        Bridge::new(name.into(), Owner::new("w"), Mac::default(), 1500).into()
    }

    #[test]
    fn what_waits_for_a_namespace_comes_with_it_and_what_goes_goes_at_once() {
        let (create, delete) = (|it| Op::Create(it), |it| Op::Delete(it));
        let steps = [
            step(delete(bridge("old")), &[]),
            step(create(bridge("new")), &[0]),
            step(create(netns("a")), &[]),
            step(create(netns("b")), &[]),
            step(create(netns("c")), &[]),
            step(create(netns("d")), &[]),
            step(create(netns("e")), &[]),
            step(create(bridge("in-a")), &[1, 2]),
            step(create(bridge("in-c")), &[1, 4]),
            step(delete(bridge("after-a")), &[7]),
            step(delete(bridge("after-c")), &[8]),
            step(create(bridge("in-place-of-it")), &[10]),
        ];
        assert_eq!(of(&steps, 2), [vec![0, 1, 2, 3, 7, 9], vec![4, 5, 8], vec![6, 10, 11]]);
        assert_eq!(of(&steps, 5), [(0..12).collect::<Vec<_>>()]);
        assert_eq!(of(&[], 2), [vec![0; 0]]);
        // A namespace that has to come later than its turn.
        let late = [
            step(create(netns("a")), &[]),
            step(create(netns("b")), &[]),
            step(delete(bridge("after-b")), &[1]),
            step(create(netns("c")), &[2]),
            step(create(netns("d")), &[]),
        ];
        assert_eq!(of(&late, 1), [vec![0], vec![1], vec![], vec![2, 3, 4]]);
    }

    #[test]
    fn what_waits_for_no_namespace_may_be_begun_beside_them() {
        let create = |name: &str, parts: &[(usize, Place)], waits: &[u32]| {
            let step = step(Op::Create(bridge(name)), waits);
            Step { parts: parts.iter().cloned().collect(), ..step }
        };
        let (host, settings) = (|| Place::Netns(HOST.into()), || Place::Sysctl(HOST.into()));
        let first = |steps: &[Step]| {
            let wave: Vec<usize> = (0..steps.len()).collect();
            beside_names(steps, &wave, 1).into_iter().collect::<Vec<_>>()
        };
        let mut steps = vec![
            create("name", &[(0, Place::Namespaces)], &[]),
            create("rules", &[(0, Place::Netfilter)], &[]),
            create("bridge", &[(1, host()), (2, settings())], &[1]),
            create("its address", &[(1, host())], &[]),
            create("a pair", &[(1, host())], &[0, 2]),
            create("other bridge", &[(1, host())], &[1]),
        ];
        assert_eq!(first(&steps), [2, 3], "the pair waits for the name, and what comes after it for its turn");
        steps[3].waits = Few::from_slice(&[2]);
        assert_eq!(first(&steps), [2, 3]);
        for (stage, place) in [(0, settings()), (1, Place::Netfilter), (0, host())] {
            steps[1].parts = [(stage, place)].into_iter().collect();
            assert!(first(&steps).is_empty(), "{stage}");
        }
        // Of a stage that is over.
        steps[1].parts = [(0, settings())].into_iter().collect();
        steps.iter_mut().skip(2).for_each(|step| step.parts.iter_mut().for_each(|(stage, _)| *stage += 1));
        let wave: Vec<usize> = (0..4).collect();
        assert_eq!(beside_names(&steps, &wave, 2).into_iter().collect::<Vec<_>>(), [2, 3]);
        assert!(beside_names(&steps, &wave[3..], 2).is_empty(), "of another wave");
    }
}
