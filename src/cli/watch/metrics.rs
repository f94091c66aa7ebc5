//! The watcher's numbers in the text format of Prometheus (exposition format 0.0.4), and its health in a word.

use std::time::Duration;

use crate::apply::watch::standing::{Standing, State};

const STATES: [State; 8] = [
    State::Starting,
    State::InSync,
    State::Drifted,
    State::Pending,
    State::Failed,
    State::Contested,
    State::Degraded,
    State::Suspended,
];

/// All numbers. A topology's name needs no escaping: it is of letters, digits and hyphens.
pub(super) fn text(topology: &str, standing: &Standing) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
        text += &format!("# HELP netrec_{name} {help}\n# TYPE netrec_{name} {kind}\n");
        for (labels, value) in samples {
            text += &format!("netrec_{name}{{topology=\"{topology}\"{labels}}} {value}\n");
        }
    };
    let one = |value: usize| vec![(String::new(), value.to_string())];
    let label = |key: &str, value: &str, number: u64| (format!(",{key}=\"{value}\""), number.to_string());
    let states = STATES.map(|state| label("state", &state.to_string(), u64::from(state == standing.state)));
    family("state", "gauge", "How the topology stands: 1 for the state it is in.", &states);
    family("resources", "gauge", "Kernel objects wanted.", &one(standing.resources));
    family("drifted", "gauge", "Objects that differ at this moment.", &one(standing.drifted));
    family("contested", "gauge", "Objects that somebody keeps undoing.", &one(standing.contested.len()));
    family("failed", "gauge", "Objects that cannot be put right.", &one(standing.failed.len()));
    family("pending", "gauge", "Containers that are not there yet.", &one(standing.pending.len()));
    if let Some(ago) = standing.converged_ago_s {
        let help = "Seconds since all was seen to be as it should be.";
        family("converged_ago_seconds", "gauge", help, &one(ago as usize));
    }
    let counters = &standing.counters;
    let changes = [
        label("reason", "corrective", counters.corrective),
        label("reason", "intentional", counters.intentional),
        label("reason", "failed", counters.failed),
    ];
    family("changes_total", "counter", "Changes: to undo drift, because the topology changed, or in vain.", &changes);
    let contents = [label("result", "accepted", counters.accepted), label("result", "rejected", counters.rejected)];
    family("contents_total", "counter", "Contents of the files that were followed or not.", &contents);
    family("looks_total", "counter", "Looks at the kernel.", &one(counters.looks as usize));
    let time = Duration::from_micros(counters.looks_us);
    let seconds = [(String::new(), format!("{}.{:06}", time.as_secs(), time.subsec_micros()))];
    family("look_seconds_total", "counter", "Time that looks and changes took.", &seconds);
    family("announcements_total", "counter", "Announcements of the kernel.", &one(counters.announcements as usize));
    family("overflows_total", "counter", "Times that announcements were lost.", &one(counters.overflows as usize));
    let unguarded = &standing.unguarded;
    family(
        "unguarded_total",
        "counter",
        "Times that the firewall was gone or altered.",
        &one(unguarded.times as usize),
    );
    let time = Duration::from_millis(unguarded.total_ms);
    let seconds = [(String::new(), format!("{}.{:03}", time.as_secs(), time.subsec_millis()))];
    family("unguarded_seconds_total", "counter", "Time that the firewall was gone or altered.", &seconds);
    text
}

/// Status line and words of `/healthz`.
pub(super) fn health(standing: &Standing) -> (&'static str, String) {
    let healthy = !matches!(standing.state, State::Starting | State::Degraded | State::Failed);
    let status = if healthy { "200 OK" } else { "503 Service Unavailable" };
    (status, format!("{}\n", standing.state))
}
