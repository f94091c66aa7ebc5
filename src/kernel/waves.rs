//! Waves: so many namespaces at a time, with all that waits for them.

use crate::model::resource::{Op, Resource, Step};

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
}
