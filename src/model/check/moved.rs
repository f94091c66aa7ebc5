//! Renames: from what is no longer declared to what is.

use super::{Checking, Once};
use crate::model::diagnostic::Diagnostic;

const TABLES: [&str; 3] = ["networks", "containers", "endpoints"];

impl Checking<'_> {
    pub(super) fn moved(&mut self) {
        let mut ends = Once::new();
        for item in &self.topology.moved {
            let (from, to) = (item.from.get_ref().as_str(), item.to.get_ref().as_str());
            let mut tables = Vec::new();
            for (path, at) in [(from, item.span(&item.from)), (to, item.span(&item.to))] {
                match path.split_once('.').filter(|(table, name)| TABLES.contains(table) && !name.is_empty()) {
                    Some((table, name)) => tables.push((table, name, at)),
                    None => self.say(
                        Diagnostic::at(at, format!("`{path}` names no table"))
                            .hint("write `networks.NAME`, `containers.NAME` or `endpoints.NAME`"),
                    ),
                }
                if let Some(first) = ends.claim(path.to_owned(), at) {
                    self.twice(format!("the move of `{path}`"), at, first);
                }
            }
            let [(of, old, at), (to_table, new, to_at)] = tables[..] else { continue };
            if of != to_table {
                let finding = Diagnostic::at(to_at, format!("`{from}` cannot become `{to}`"));
                self.say(finding.label("of another table").hint("what is renamed stays what it is"));
                continue;
            }
            if self.topology.declares(of, old) {
                let finding = Diagnostic::at(at, format!("`{from}` is still declared"));
                self.say(finding.label("so it was not renamed").hint("take out the old table, or this entry"));
            }
            if !self.topology.declares(of, new) && !self.broken.has(known(of), new) {
                self.say(Diagnostic::at(to_at, format!("`{to}` is not declared")).label("nothing to become"));
            }
        }
    }
}

fn known(table: &str) -> &'static str {
    TABLES.into_iter().find(|known| *known == table).unwrap_or_default()
}
