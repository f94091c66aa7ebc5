//! How soon a watcher follows a file that was put in the place of the one it watches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::watched::Watched;
use super::{report, workload};

/// Between two contents: the watcher has heard its own echoes, and looked at what it knows.
const PAUSE: Duration = Duration::from_millis(500);

/// Stages, by the words in the log that each ends with.
const STAGES: [(&str, &str); 9] = [
    ("heard", "something happened to the files"),
    ("read", "the files were read"),
    ("understood", "the files were understood"),
    ("ordered", "the look begins"),
    ("seen", "looked"),
    ("lowered", "lowered"),
    ("planned", "planned"),
    ("written", "written"),
    ("verified", "the look ends"),
];

/// Adds a container, gives another port and takes the container away again, so many times.
pub(super) fn follow(endpoints: usize, times: usize) {
    let more = workload::topology(endpoints + 1);
    // Not the last one: a file that is as before without its end is doubted.
    let block = |n: usize| more.find(&format!("\n[containers.c{n}]\n")).expect("it has one");
    let few = more[..block(endpoints / 2)].to_owned() + &more[block(endpoints / 2 + 1)..];
    let other = more.replace("\"20000:80\"", "\"19999:80\"");
    let mut watched = Watched::start_in_detail(&few);
    println!("{endpoints} endpoints, a file put in the place of the one that is watched");
    println!("{:<12} {:>6} {:>9} {:>9} {:>9}", "change", "times", "p50 ms", "p99 ms", "max ms");
    let (mut all, mut stages) = (BTreeMap::<_, Vec<Duration>>::new(), BTreeMap::<_, Vec<Duration>>::new());
    for _ in 0..times {
        // The port goes back with the container, which is then two changes, so it has its own way back.
        for (change, text) in [("added", &more), ("port", &other), ("port", &more), ("removed", &few)] {
            std::thread::sleep(PAUSE);
            let Some((began, done)) = watched.replace(text) else {
                panic!("{change}: {:#?}", watched.logged(Instant::now()));
            };
            all.entry(change).or_default().push(done - began);
            for (stage, took) in stages_of(began, &watched.logged(done)) {
                stages.entry((change, stage)).or_default().push(took);
            }
        }
    }
    for (change, mut times) in all {
        report(change, &mut times);
        for (at, (stage, _)) in STAGES.iter().enumerate() {
            if let Some(times) = stages.get_mut(&(change, at)) {
                report(&format!("  {stage}"), times);
            }
        }
    }
}

/// How long each stage took, from the end of the one before.
fn stages_of(began: Instant, log: &[(Instant, String)]) -> Vec<(usize, Duration)> {
    let (mut before, mut stages) = (began, Vec::new());
    for (at, (_, words)) in STAGES.iter().enumerate() {
        // Of several the first after the stage before: what follows is the same again.
        if let Some((end, _)) = log.iter().find(|(end, line)| *end >= before && line.contains(words)) {
            stages.push((at, *end - before));
            before = *end;
        }
    }
    stages
}
