//! What the watcher has to tell, as values: people read them as lines, programs as JSON, hooks as words.

use std::fmt;

use serde::Serialize;

use super::standing::State;
use crate::kernel::events::Author;
use crate::model::diagnostic::{printable, printable_lines};
use crate::model::resource::ResourceId;

/// Objects named in one event; the rest is counted.
const NAMED: usize = 8;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The files say something new, and it is followed.
    Accepted {
        /// Of the files' content.
        digest: String,
    },
    /// The files, or what they ask for, cannot be followed.
    Rejected {
        /// Why.
        reason: String,
        /// Whether something good is kept up instead.
        kept: bool,
    },
    /// What was rejected can be followed again.
    Recovered,
    /// Changes were made.
    Changed {
        /// Because the kernel had been changed.
        corrective: usize,
        /// Because the topology was changed.
        intentional: usize,
        /// Some of the objects, those first from which others follow.
        objects: Vec<String>,
        /// How long it took from the announcement of the change on, in milliseconds.
        took_ms: u64,
    },
    /// The firewall's table, or a rule of it, was gone or altered, and stands again.
    Unguarded {
        /// How long that was so, in milliseconds.
        took_ms: u64,
    },
    /// An object cannot be put right.
    Failed {
        /// Which.
        id: String,
        /// Why.
        error: String,
    },
    /// Somebody keeps undoing an object: it is tried once a minute from now on.
    Contested {
        /// Which.
        id: String,
        /// Who, where Linux says so.
        by: Option<String>,
    },
    /// An object that was contested or failed is right again.
    Settled {
        /// Which.
        id: String,
    },
    /// A container is not there yet.
    Pending {
        /// Its name.
        container: String,
        /// What is missing.
        reason: String,
    },
    /// A container that was pending is there.
    Attached {
        /// Its name.
        container: String,
    },
    /// Announcements of the kernel were lost; everything is looked at.
    Overflow,
    /// Whoever tells could not tell all.
    LeftOut {
        /// How many events.
        events: u64,
    },
    /// The topology stands otherwise than before.
    State {
        /// How it stood.
        from: State,
        /// How it stands.
        to: State,
    },
}

impl Event {
    /// Objects for an event, the first few by name.
    pub fn named<'a>(ids: impl Iterator<Item = &'a ResourceId>) -> Vec<String> {
        ids.take(NAMED).map(ToString::to_string).collect()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { digest } => write!(f, "accepted: the files' content {digest} is followed"),
            Self::Rejected { reason, kept } => {
                let kept = if *kept { "the last good topology is kept up" } else { "no topology is kept up" };
                write!(f, "rejected: {kept}: {}", printable_lines(reason))
            }
            Self::Recovered => f.write_str("recovered"),
            Self::Changed { corrective, intentional, objects, took_ms } => {
                let all = corrective + intentional;
                let more = all.saturating_sub(objects.len());
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                let word = if *intentional == 0 { "healed" } else { "changed" };
                write!(f, "{word}: {}{more} ({took_ms} ms)", objects.join(", "))
            }
            Self::Unguarded { took_ms } => write!(f, "unguarded: the firewall was gone or altered for {took_ms} ms"),
            Self::Failed { id, error } => write!(f, "failed: {id}: {}", printable(error)),
            Self::Contested { id, by } => {
                let by = printable(by.as_deref().unwrap_or("somebody"));
                write!(f, "contested: {id}: {by} keeps undoing it; left alone, tried once a minute")
            }
            Self::Settled { id } => write!(f, "settled: {id}"),
            Self::Pending { container, reason } => write!(f, "pending: container {container}: {}", printable(reason)),
            Self::Attached { container } => write!(f, "attached: container {container}"),
            Self::Overflow => f.write_str("overflow: announcements of the kernel were lost, looking at everything"),
            Self::LeftOut { events } => write!(f, "{events} events were left out"),
            Self::State { from, to } => write!(f, "state: {from} -> {to}"),
        }
    }
}

/// The name of an author for people.
pub(super) fn author(author: &Author) -> String {
    match (author.name.as_str(), author.pid) {
        ("", pid) => format!("process {pid} (gone)"),
        (name, pid) => format!("process {pid} ({name})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_call_things_does_no_harm_to_a_terminal() {
        let word = || "\u{1b}[31m\r".to_owned();
        for event in [
            Event::Pending { container: "c".into(), reason: word() },
            Event::Failed { id: "host/bridge/b".into(), error: word() },
            Event::Contested { id: "host/bridge/b".into(), by: Some(word()) },
            Event::Rejected { reason: word(), kept: true },
        ] {
            let text = event.to_string();
            assert!(text.contains("\\u{1b}[31m\\r") && !text.contains(char::is_control), "{text:?}");
        }
    }
}
