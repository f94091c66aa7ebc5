//! Why what the files say is not followed, or cannot be kept up: said once, however often it is tried in turn with
//! something else that fails for another reason.

use std::collections::BTreeSet;

/// Reasons kept in mind; beyond that they are said anew.
const REASONS: usize = 16;

/// The reason of the last try, and those that were said since all went well.
#[derive(Clone, Default, Debug)]
pub struct Reason {
    last: Option<String>,
    said: BTreeSet<(String, bool)>,
}

impl Reason {
    /// It failed for that reason; whether that has not been said yet, of what is kept up or of what is not.
    pub fn note(&mut self, why: &str, kept: bool) -> bool {
        self.last = Some(why.to_owned());
        if self.said.len() >= REASONS {
            self.said.clear();
        }
        self.said.insert((why.to_owned(), kept))
    }

    /// All goes well; whether it did not before.
    pub fn end(&mut self) -> bool {
        std::mem::take(self).last.is_some()
    }

    /// The reason, if there is one.
    pub fn last(&self) -> Option<&String> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_in_turns_for_two_reasons_says_each_once() {
        let mut reason = Reason::default();
        let said = ["one", "other"].map(|why| reason.note(why, true));
        assert_eq!(said, [true, true]);
        assert!(!["one", "other", "one"].into_iter().any(|why| reason.note(why, true)));
        assert_eq!(reason.last().map(String::as_str), Some("one"));
        assert!(reason.note("one", false), "nothing is kept up any more");
        assert!(reason.end() && !reason.end());
        assert!(reason.note("one", true), "after all went well it is news");
    }
}
