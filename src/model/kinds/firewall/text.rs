//! The tables in nft's syntax (nft(8)): for people, and for nft itself.

use std::fmt::Write;

use nftables::expr::{Expression, FibFlag, MetaKey, NamedExpression, Payload};
use nftables::schema::{Chain, NfListObject, Rule, SetTypeValue};
use nftables::stmt::{NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainType, NfFamily};

use super::definition::fields;
use super::elements::Elements;
use super::rules::{Object, Skeleton};
use super::{Firewall, Uses};

/// Both tables with their elements.
pub(super) fn tables(firewall: &Firewall) -> String {
    let Firewall { table, uses, elements, .. } = firewall;
    let mut out = String::new();
    for skeleton in Skeleton::both(super::group(table), *uses) {
        let family = if skeleton.family == NfFamily::INet { "inet" } else { "bridge" };
        line(&mut out, format_args!("table {family} {table} {{"));
        for (_, object) in &skeleton.objects {
            match object {
                NfListObject::Set(it) => {
                    let kind = format!("type {}", types(&it.set_type));
                    let more = match (it.size, it.timeout, &it.flags) {
                        (Some(size), Some(seconds), _) => {
                            format!("\n\t\tsize {size}\n\t\tflags dynamic,timeout\n\t\ttimeout {seconds}s")
                        }
                        (_, _, Some(_)) => INTERVAL.into(),
                        _ => String::new(),
                    };
                    set(&mut out, ("set", &it.name, &(kind + &more)), elements);
                }
                NfListObject::Map(it) => {
                    let kind = format!("type {} : {}", types(&it.set_type), types(&it.map));
                    let more = if it.flags.is_some() { INTERVAL } else { "" };
                    set(&mut out, ("map", &it.name, &(kind + more)), elements);
                }
                NfListObject::Chain(it) => chain(&mut out, it, &skeleton),
                _ => {}
            }
        }
        line(&mut out, format_args!("}}"));
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes everything");
}

const INTERVAL: &str = "\n\t\tflags interval";

fn set(out: &mut String, (what, name, definition): (&str, &str, &str), elements: &Elements) {
    line(out, format_args!("\t{what} {name} {{\n\t\t{definition}"));
    let held: Vec<String> = elements.iter().filter(|element| element.set() == name).map(super::Element::nft).collect();
    if !held.is_empty() {
        line(out, format_args!("\t\telements = {{ {} }}", held.join(",\n\t\t\t     ")));
    }
    line(out, format_args!("\t}}\n"));
}

fn types(types: &SetTypeValue<'_>) -> String {
    let names = fields(types).iter().map(|field| match serde_json::to_value(field) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    });
    names.collect::<Vec<_>>().join(" . ")
}

fn chain(out: &mut String, chain: &Chain<'_>, skeleton: &Skeleton) {
    line(out, format_args!("\tchain {} {{", chain.name));
    if let (Some(kind), Some(hook), Some(priority)) = (chain._type, chain.hook, chain.prio) {
        let kind = if kind == NfChainType::NAT { "nat" } else { "filter" };
        let hook = format!("{hook:?}").to_lowercase();
        let priority = named_priority(skeleton.family, &hook, priority);
        line(out, format_args!("\t\ttype {kind} hook {hook} priority {priority}; policy accept;"));
    }
    for (_, object) in &skeleton.objects {
        if let NfListObject::Rule(rule) = object
            && rule.chain == chain.name
        {
            line(out, format_args!("\t\t{}", self::rule(rule)));
        }
    }
    line(out, format_args!("\t}}\n"));
}

/// A rule without its place.
fn rule(rule: &Rule<'_>) -> String {
    rule.expr.iter().map(statement).collect::<Vec<_>>().join(" ")
}

/// The rules of a chain of the topology whose ports are in that group and that uses those parts, in order.
pub(super) fn rules((group, uses): (u32, Uses), bridge: bool, chain: &str) -> Vec<String> {
    let [inet, bridged] = Skeleton::both(group, uses);
    let of_chain = |(_, object): &(Uses, Object)| match object {
        NfListObject::Rule(it) if it.chain == chain => Some(rule(it)),
        _ => None,
    };
    if bridge { bridged } else { inet }.objects.iter().filter_map(of_chain).collect()
}

/// nft has names for priorities at the hooks where they make sense.
fn named_priority(family: NfFamily, hook: &str, priority: i32) -> String {
    match (family, hook, priority) {
        (NfFamily::INet, "prerouting", -300) => "raw".into(),
        (NfFamily::INet, "prerouting", -100) => "dstnat".into(),
        (NfFamily::INet, _, 0) | (NfFamily::Bridge, _, -200) => "filter".into(),
        (NfFamily::Bridge, "prerouting", -300) => "dstnat".into(),
        (NfFamily::INet, "postrouting", 100) => "srcnat".into(),
        _ => priority.to_string(),
    }
}

fn statement(statement: &Statement<'_>) -> String {
    match statement {
        Statement::Match(it) => {
            let not = if it.op == Operator::NEQ { "!= " } else { "" };
            format!("{} {not}{}", expression(&it.left), expression(&it.right))
        }
        Statement::Accept(_) => "accept".into(),
        Statement::Drop(_) => "drop".into(),
        Statement::Return(_) => "return".into(),
        Statement::Masquerade(_) => "masquerade".into(),
        Statement::Jump(to) => format!("jump {}", to.target),
        Statement::Goto(to) => format!("goto {}", to.target),
        Statement::DNAT(Some(nat)) => format!("dnat {}", translation(nat)),
        Statement::SNAT(Some(nat)) => format!("snat {}", translation(nat)),
        Statement::Mangle(it) => format!("{} set {}", expression(&it.key), expression(&it.value)),
        Statement::Set(it) => format!("update {} {{ {} }}", it.set, expression(&it.elem)),
        other => unreachable!("the skeleton has no such statement: {other:?}"),
    }
}

fn translation(nat: &NAT<'_>) -> String {
    let family = if nat.family == Some(NATFamily::IP6) { "ip6" } else { "ip" };
    format!("{family} to {}", nat.addr.as_ref().map(expression).unwrap_or_default())
}

fn expression(expression_: &Expression<'_>) -> String {
    let joined = |parts: &[Expression<'_>], by: &str| parts.iter().map(expression).collect::<Vec<_>>().join(by);
    match expression_ {
        Expression::String(word) if *word == "lo" => format!("\"{word}\""),
        Expression::String(word) => word.to_string(),
        Expression::List(words) => joined(words, ","),
        Expression::Range(ends) => joined(&ends.range, "-"),
        Expression::Named(named) => match named {
            NamedExpression::Concat(parts) => joined(parts, " . "),
            NamedExpression::Map(map) => format!("{} map {}", expression(&map.key), expression(&map.data)),
            NamedExpression::Prefix(prefix) => format!("{}/{}", expression(&prefix.addr), prefix.len),
            NamedExpression::Payload(Payload::PayloadField(it)) => format!("{} {}", it.protocol, it.field),
            NamedExpression::Payload(Payload::PayloadRaw(it)) => {
                format!("@{},{},{}", format!("{:?}", it.base).to_lowercase(), it.offset, it.len)
            }
            NamedExpression::CT(ct) => format!("ct {}", ct.key),
            NamedExpression::Fib(it) if it.flags.contains(&FibFlag::Saddr) => "fib saddr type".into(),
            NamedExpression::Fib(_) => "fib daddr type".into(),
            NamedExpression::Meta(meta) => match meta.key {
                MetaKey::Iifname => "iifname".into(),
                MetaKey::Oifname => "oifname".into(),
                MetaKey::Iifgroup => "iifgroup".into(),
                MetaKey::Oifgroup => "oifgroup".into(),
                key => format!("meta {}", format!("{key:?}").to_lowercase()),
            },
            other => unreachable!("the skeleton has no such expression: {other:?}"),
        },
        other => unreachable!("the skeleton has no such expression: {other:?}"),
    }
}
