//! Names: of the topology, its tables, interfaces and namespaces.

use toml::Spanned;

use super::Checking;
use crate::model::diagnostic::Diagnostic;
use crate::model::source::Span;
use crate::model::topology::Topology;

/// `IFNAMSIZ` without its final zero (linux/if.h).
const IFNAME_BYTES: usize = 15;

/// Of the names of tables.
const NAME_BYTES: usize = 63;

impl Checking<'_> {
    pub(super) fn names(&mut self) {
        let topology = self.topology;
        // None of several files names it: that is said already.
        let is_known = topology.named.is_some() || !topology.name.is_empty();
        if is_known && !Topology::is_name(&topology.name) {
            let message = format!("`{}` cannot be the name of a topology", topology.name);
            let finding = topology.named.map_or_else(|| Diagnostic::new(&*message), |at| Diagnostic::at(at, &*message));
            let hint = match topology.named {
                _ if topology.name == Topology::RESERVED => {
                    "the table `netrec-user` is for rules of users: name it otherwise"
                }
                Some(_) => "a topology is named with 1 to 32 of `a` to `z`, `0` to `9` and `-`",
                None => {
                    "it is the stem of the file's name; write `topology = \"NAME\"`, 1 to 32 of `a-z`, `0-9` and `-`"
                }
            };
            self.say(finding.hint(hint));
        }
        let networks = topology.networks.iter().map(|(name, item)| ("network", name, item.name));
        let containers = topology.containers.iter().map(|(name, item)| ("container", name, item.name));
        let endpoints = topology.endpoints.iter().map(|(name, item)| ("endpoint", name, item.name));
        for (what, name, span) in networks.chain(containers).chain(endpoints) {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
            if !starts || name.len() > NAME_BYTES || !name.bytes().all(good) {
                let hint = format!("1 to {NAME_BYTES} letters, digits, `-`, `_` or `.`, a letter or digit first");
                self.say(Diagnostic::at(span, format!("`{name}` cannot be the name of a {what}")).hint(hint));
            }
        }
    }

    /// Whether the kernel takes a name for a link (`dev_valid_name` in net/core/dev.c, and `%`, which it would replace).
    pub(super) fn ifname(&mut self, name: &Spanned<String>, span: Span) {
        let text = name.get_ref().as_str();
        let finding = match text {
            _ if text.len() > IFNAME_BYTES => {
                let finding = Diagnostic::at(span, format!("`{text}` is {} bytes long", text.len()));
                finding.label("too long for a link").hint(format!("the kernel takes {IFNAME_BYTES} bytes"))
            }
            "lo" => Diagnostic::at(span, "`lo` is taken by every namespace").label("choose another name"),
            "" | "." | ".." | "all" | "default" => {
                Diagnostic::at(span, format!("`{text}` cannot be the name of a link"))
            }
            _ if text.bytes().any(|byte| b"/:%\"\\".contains(&byte) || !byte.is_ascii_graphic()) => {
                Diagnostic::at(span, format!("`{text}` cannot be the name of a link"))
                    .hint("ASCII without blanks, and none of `/`, `:`, `%`, `\"` and `\\`")
            }
            _ => return,
        };
        self.say(finding);
    }
}
