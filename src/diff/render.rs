//! A difference as people and programs read it. The only place with `+ ~ ± -`; colours are the caller's business.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Change, Diff, Why};
use crate::model::resource::{FieldChange, HOST, Kind, ResourceId};
use crate::model::source::{Origin, Source};
use crate::model::state::Origins;

/// Columns of a line at most.
const WIDTH: usize = 100;
/// Ids are padded to the longest, but not further than this.
const ID_WIDTH: usize = 44;
/// Field changes share a line up to so many columns.
const LINE_WIDTH: usize = 56;
/// Lines of one resource at most; all changes are in the JSON form.
const LINES: usize = 64;

/// How many resources get which treatment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Summary {
    /// Made.
    pub create: usize,
    /// Changed on the living object.
    pub update: usize,
    /// Made anew.
    pub replace: usize,
    /// Removed.
    pub delete: usize,
    /// Seen, others', and left alone.
    pub foreign: usize,
}

impl Summary {
    /// Counts a difference.
    pub fn of(diff: &Diff, foreign: usize) -> Self {
        let mut summary = Self { foreign, ..Self::default() };
        for change in diff.values() {
            *match change {
                Change::Create { .. } => &mut summary.create,
                Change::Update { .. } => &mut summary.update,
                Change::Replace { .. } => &mut summary.replace,
                Change::Delete { .. } => &mut summary.delete,
            } += 1;
        }
        summary
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { create, update, replace, delete, .. } = self;
        write!(f, "{create} create, {update} update, {replace} replace, {delete} delete")
    }
}

/// The whole difference as text: lines `symbol id  what  reason`, the host first, then namespace by namespace; empty if
/// there is none.
pub fn text(diff: &Diff) -> String {
    let all = in_display_order(diff);
    let width = all.iter().map(|(id, _)| id.width()).max().unwrap_or(0).min(ID_WIDTH);
    let (mut text, mut line) = (String::with_capacity(all.len() * WIDTH), String::with_capacity(2 * WIDTH));
    for (id, change) in all {
        line.clear();
        let _ = write!(line, "{} {id}", symbol(change));
        line.extend(std::iter::repeat_n(' ', width.saturating_sub(id.width()) + 2));
        let head = line.len();
        let what = what(change, (WIDTH - width - 4).min(LINE_WIDTH));
        for more in what.iter().take(LINES) {
            line.truncate(head);
            line.push_str(more);
            push_line(&mut text, &line);
        }
        if let Some(rest) = what.len().checked_sub(LINES).filter(|rest| *rest > 0) {
            line.truncate(head);
            let _ = write!(line, "and {rest} more");
            push_line(&mut text, &line);
        }
    }
    text
}

fn in_display_order(diff: &Diff) -> Vec<(&ResourceId, &Change)> {
    let (host, containers): (Vec<_>, Vec<_>) = diff.iter().partition(|(id, _)| &*id.netns == HOST);
    host.into_iter().chain(containers).collect()
}

fn push_line(text: &mut String, line: &str) {
    let line = line.trim_end();
    if line.len() <= WIDTH || line.chars().count() <= WIDTH {
        text.push_str(line);
    } else {
        text.extend(line.chars().take(WIDTH - 1));
        text.push('…');
    }
    text.push('\n');
}

fn symbol(change: &Change) -> char {
    match change {
        Change::Create { .. } => '+',
        Change::Update { .. } => '~',
        Change::Replace { .. } => '±',
        Change::Delete { .. } => '-',
    }
}

/// The lines that tell of one change: what, then why where that is not plain. Behind symbol and id there is room for so
/// many columns.
fn what(change: &Change, room: usize) -> Vec<String> {
    match change {
        Change::Create { to } => std::iter::once(to.summary()).chain(to.details()).collect(),
        Change::Delete { .. } => vec![reason(change)],
        Change::Update { why: Why::Lost(_), to, from, .. } => fields(&to.changes(from), &reason(change), room),
        Change::Update { why: Why::Fields(changes), .. } => fields(changes, "", room),
        Change::Replace { why: Why::Fields(changes), .. } => fields(changes, &reason(change), room),
        Change::Replace { to, why: Why::Lost(_), .. } => vec![format!("{}  {}", to.summary(), reason(change))],
    }
}

/// Field changes, several on a line where they fit.
fn fields(changes: &[FieldChange], reason: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for change in changes.iter().map(ToString::to_string) {
        match lines.last_mut() {
            Some(line) if line.len() + change.len() + 2 <= room => {
                let _ = write!(line, ", {change}");
            }
            _ => lines.push(change),
        }
    }
    if let (Some(line), false) = (lines.first_mut(), reason.is_empty()) {
        let _ = write!(line, "  {reason}");
    }
    lines
}

fn reason(change: &Change) -> String {
    match change {
        Change::Create { .. } => "declared".into(),
        Change::Update { why: Why::Fields(_), .. } => "differs".into(),
        Change::Update { why: Why::Lost(cause), .. } => format!("lost with {cause}"),
        Change::Replace { why: Why::Fields(_), .. } => "cannot change in place".into(),
        Change::Replace { why: Why::Lost(cause), .. } | Change::Delete { implied: Some(cause), .. } => {
            format!("goes with {cause}")
        }
        Change::Delete { implied: None, .. } => "no longer declared".into(),
    }
}

/// The plan as JSON (contract: DESIGN section 4).
#[derive(Debug, Serialize)]
pub struct Json<'a> {
    version: u32,
    topology: &'a str,
    changes: Vec<JsonChange>,
    summary: Summary,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct JsonChange {
    id: String,
    kind: &'static str,
    action: &'static str,
    reason: String,
    origin: Option<Origin>,
    fields: Vec<JsonField>,
}

#[derive(Debug, Serialize)]
struct JsonField {
    field: &'static str,
    from: Option<String>,
    to: Option<String>,
}

/// What the JSON form says beyond the difference.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Whose plan.
    pub topology: &'a str,
    /// Where each resource was asked for.
    pub origins: &'a Origins,
    /// The files those places are in.
    pub sources: &'a [Source],
    /// What the user should know.
    pub notes: &'a [String],
    /// How many of others' objects were seen and left alone.
    pub foreign: usize,
}

/// The plan as JSON: all changes, in the order of the text.
pub fn json<'a>(diff: &Diff, context: &Context<'a>) -> Json<'a> {
    let changes = in_display_order(diff)
        .into_iter()
        .map(|(id, change)| JsonChange {
            id: id.to_string(),
            kind: id.kind.word(),
            action: change.action(),
            reason: reason(change),
            origin: change.to().and_then(|_| context.origins.get(id)).map(|span| span.origin(context.sources)),
            fields: json_fields(change),
        })
        .collect();
    let (topology, notes) = (context.topology, context.notes);
    Json { version: 1, topology, changes, summary: Summary::of(diff, context.foreign), notes }
}

fn json_fields(change: &Change) -> Vec<JsonField> {
    let fields = match change {
        Change::Update { why: Why::Fields(fields), .. } | Change::Replace { why: Why::Fields(fields), .. } => {
            fields.clone()
        }
        Change::Update { to, from, .. } => to.changes(from),
        _ => Vec::new(),
    };
    let some = |text: String| (!text.is_empty()).then_some(text);
    fields
        .into_iter()
        .map(|FieldChange { field, from, to, .. }| JsonField { field, from: some(from), to: some(to) })
        .collect()
}
