//! Containers: each is one namespace, and each namespace is one container's.

use toml::Spanned;

use super::{Checking, Once};
use crate::model::diagnostic::Diagnostic;
use crate::model::resource::{Few, HOST};
use crate::model::source::Span;
use crate::model::topology::{Container, Item};

/// The kernel's `PID_MAX_LIMIT` (linux/threads.h).
const PID_MAX: u32 = 1 << 22;

impl Checking<'_> {
    pub(super) fn containers(&mut self) {
        let (mut namespaces, mut labels) = (Once::new(), Once::new());
        let by_path = self.topology.containers.values().any(|item| item.path.is_some());
        for (name, item) in &self.topology.containers {
            let spans = self.ways(name, item);
            self.container_values(item);
            if let Some(netns) = &item.netns {
                if let Some(first) = labels.claim(netns.get_ref().as_str(), item.span(netns)) {
                    self.twice(format!("namespace `{}`", netns.get_ref()), item.span(netns), first);
                    continue;
                }
            } else {
                if name == HOST {
                    let message = "`host` cannot be the name of a container given by `path` or `pid`";
                    self.say(Diagnostic::at(item.name, message).hint("ids use it for the host's own namespace"));
                }
                if let Some(first) = labels.claim(name.as_str(), item.name) {
                    let message = format!("`{name}` is the name of a namespace and of a container elsewhere");
                    let finding = Diagnostic::at(item.name, message).related(first, "the other one");
                    self.say(finding.hint("a container given by `path` or `pid` goes by its own name: rename it"));
                }
            }
            let path = item.path.as_ref().map(|path| path.get_ref().replacen("/var/run/", "/run/", 1));
            let named = item.netns.as_ref().filter(|_| by_path);
            let path = path.or_else(|| named.map(|netns| format!("/run/netns/{}", netns.get_ref())));
            let place = path.map(|path| format!("path `{path}`"));
            let place = place.or_else(|| item.pid.as_ref().map(|pid| format!("pid {}", pid.get_ref())));
            if let (Some(place), Some(span)) = (place, spans.first())
                && let Some(first) = namespaces.claim(place.clone(), *span)
            {
                self.twice(place, *span, first);
            }
        }
    }

    /// What can be said of each of its values by itself.
    pub(super) fn container_values(&mut self, item: &Item<Container>) {
        if let Some(netns) = &item.netns {
            self.netns(netns, item.span(netns));
        }
        if let Some(path) = &item.path {
            let wrong = match path.get_ref() {
                text if !text.starts_with('/') => "is not an absolute path",
                text if text.contains('\0') => "has a zero byte, which ends a path",
                _ => "",
            };
            if !wrong.is_empty() {
                let finding = Diagnostic::at(item.span(path), format!("`{}` {wrong}", path.get_ref()));
                self.say(finding.hint("such as `/proc/4711/ns/net`"));
            }
        }
        if let Some(pid) = item.pid.as_ref().filter(|pid| !(1..=PID_MAX).contains(pid.get_ref())) {
            let finding = Diagnostic::at(item.span(pid), format!("{} is not a process id", pid.get_ref()));
            self.say(finding.hint(format!("1 to {PID_MAX}")));
        }
    }

    /// Exactly one of the ways to say which namespace it is; the places of those given.
    fn ways(&mut self, name: &str, item: &Item<Container>) -> Few<Span> {
        let netns = item.netns.as_ref().map(|netns| item.span(netns));
        let path = item.path.as_ref().map(|path| item.span(path));
        let pid = item.pid.as_ref().map(|pid| item.span(pid));
        let given: Few<Span> = [netns, path, pid].into_iter().flatten().collect();
        match given.as_slice() {
            [] => {
                let finding = Diagnostic::at(item.name, format!("which namespace container `{name}` is, is not said"));
                self.say(finding.hint(format!("add `netns = \"{name}\"`, or `path = …`, or `pid = …`")));
            }
            [_] => {}
            [first, second, ..] => {
                let finding = Diagnostic::at(*second, format!("container `{name}` is given in two ways"));
                let finding = finding.label("and here").related(*first, "here");
                self.say(finding.hint("exactly one of `netns`, `path` and `pid`"));
            }
        }
        if let (Some(create), None) = (&item.create, &item.netns) {
            let finding = Diagnostic::at(item.span(create), "`create` means nothing here");
            self.say(finding.hint("only a named namespace (`netns = …`) can be created"));
        }
        given
    }

    fn netns(&mut self, netns: &Spanned<String>, span: Span) {
        let name = netns.get_ref().as_str();
        let file = |byte: u8| byte.is_ascii_graphic() && !b"/\"\\:".contains(&byte);
        if name == HOST {
            let finding = Diagnostic::at(span, "`host` cannot be the name of a namespace");
            self.say(
                finding.hint("ids use it for the host's own; to share that, use `driver = \"host\"` and `pid = 1`"),
            );
        } else if matches!(name, "" | "." | "..") || name.len() > 255 || !name.bytes().all(file) {
            let finding = Diagnostic::at(span, format!("`{name}` cannot be the name of a namespace"));
            self.say(
                finding.hint("it names a file in /run/netns: ASCII without blanks, none of `/`, `:`, `\"` and `\\`"),
            );
        }
    }

    /// Containers that share the host's namespace, or are cut off, have no other endpoints.
    pub(super) fn alone(&mut self) {
        for (name, item) in &self.topology.endpoints {
            let Some((network, of)) = self.network_of(item) else { continue };
            if !of.has_driver("host") && !of.has_driver("none") {
                continue;
            }
            let driver = of.driver.get_ref();
            let others = self.topology.endpoints.iter().filter(|(other, _)| *other != name);
            let other =
                others.map(|(_, other)| other).find(|other| other.container.get_ref() == item.container.get_ref());
            if let Some(other) = other {
                let message = format!("a container on network `{network}` of driver `{driver}` has no other endpoint");
                let finding = Diagnostic::at(item.name, message);
                self.say(finding.related(other.name, "the same container"));
            }
            let container = self.topology.containers.get(item.container.get_ref());
            if let Some(netns) = container.filter(|_| of.has_driver("host")).and_then(|it| it.netns.as_ref()) {
                let at = container.map_or(item.name, |container| container.span(netns));
                let finding = Diagnostic::at(at, "a named namespace is not the host's own").related(of.name, "`host`");
                self.say(finding.hint("give the container by `pid` or `path`"));
            }
        }
    }
}
