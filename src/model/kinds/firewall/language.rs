//! Words of rules: short for the types of the `nftables` crate, as far as the skeleton speaks them.

use nftables::expr::{CT, Expression, Fib, FibFlag, FibResult, Map as Lookup, Meta, MetaKey, NamedExpression};
use nftables::expr::{Payload, PayloadField, Prefix, Range};
use nftables::schema::{SetType, SetTypeValue};
use nftables::stmt::{self, JumpTarget, Mangle, Match, NAT, NATFamily, Operator, SetOp, Statement};

pub(super) type Said = Statement<'static>;
pub(super) type Expr = Expression<'static>;

pub(super) const ACCEPT: Said = Statement::Accept(None);
pub(super) const DROP: Said = Statement::Drop(None);
pub(super) const RETURN: Said = Statement::Return(None);
pub(super) const MASQUERADE: Said = Statement::Masquerade(None);

pub(super) fn types(types: &[SetType]) -> SetTypeValue<'static> {
    match types {
        [one] => SetTypeValue::Single(*one),
        several => SetTypeValue::Concatenated(several.to_vec().into()),
    }
}

pub(super) fn text(text: &'static str) -> Expr {
    Expression::String(text.into())
}

pub(super) fn goto(chain: &'static str) -> Said {
    Statement::Goto(JumpTarget { target: chain.into() })
}

pub(super) fn jump(chain: &'static str) -> Said {
    Statement::Jump(JumpTarget { target: chain.into() })
}

pub(super) fn matches(left: Expr, op: Operator, right: Expr) -> Said {
    Statement::Match(Match { left, right, op })
}

pub(super) fn is(left: Expr, right: impl Into<Right>) -> Said {
    matches(left, Operator::EQ, right.into().0)
}

pub(super) fn is_not(left: Expr, right: impl Into<Right>) -> Said {
    matches(left, Operator::NEQ, right.into().0)
}

/// Right side of a match: a word, a reference to a set (`@name`), or an expression.
pub(super) struct Right(Expr);

impl From<&'static str> for Right {
    fn from(word: &'static str) -> Self {
        Self(text(word))
    }
}

impl From<Expr> for Right {
    fn from(expression: Expr) -> Self {
        Self(expression)
    }
}

pub(super) fn meta(key: MetaKey) -> Expr {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn iifname() -> Expr {
    meta(MetaKey::Iifname)
}

pub(super) fn oifname() -> Expr {
    meta(MetaKey::Oifname)
}

pub(super) fn nfproto(family: &'static str) -> Said {
    is(meta(MetaKey::Nfproto), family)
}

pub(super) fn payload(protocol: &'static str, field: &'static str) -> Expr {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

pub(super) fn ip(field: &'static str) -> Expr {
    payload("ip", field)
}

pub(super) fn ip6(field: &'static str) -> Expr {
    payload("ip6", field)
}

pub(super) fn loopback() -> Expr {
    Expression::Named(NamedExpression::Prefix(Prefix { addr: Box::new(text("127.0.0.0")), len: 8 }))
}

/// Type of an address as the routing tables have it.
pub(super) fn local(of: FibFlag) -> Expr {
    let flags = [of].into();
    Expression::Named(NamedExpression::Fib(Fib { result: FibResult::Type, flags }))
}

pub(super) fn concat(parts: Vec<Expr>) -> Expr {
    Expression::Named(NamedExpression::Concat(parts))
}

/// Who asks whom, and for what.
pub(super) fn passage(family: &'static str, ends: [&'static str; 2], ports: &[&'static str]) -> Expr {
    let mut fields = ends.map(|end| payload(family, end)).to_vec();
    fields.push(meta(MetaKey::L4proto));
    fields.extend(ports.iter().map(|port| payload("th", port)));
    concat(fields)
}

/// Writes into a header.
pub(super) fn assign(key: Expr, value: Expr) -> Said {
    Statement::Mangle(Mangle { key, value })
}

/// Remembers a key in a set for as long as the set says.
pub(super) fn update(set: &'static str, key: Expr) -> Said {
    Statement::Set(stmt::Set { op: SetOp::Update, elem: key, set: set.into() })
}

pub(super) fn ct(key: &'static str, any_of: &[&'static str]) -> Said {
    let left = Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }));
    any(left, any_of)
}

/// A connection that begins, as far as conntrack knows, in the middle.
pub(super) fn midstream(then: Said) -> [Said; 3] {
    [ct("state", &["new"]), any(payload("tcp", "flags"), &["ack"]), then]
}

/// Neighbour solicitations and advertisements by their types (RFC 4861).
pub(super) fn neighbour_discovery() -> Expr {
    range("135", "136")
}

/// Everything from one value to another one.
pub(super) fn range(first: &'static str, last: &'static str) -> Expr {
    Expression::Range(Box::new(Range { range: [text(first), text(last)] }))
}

/// Whether any of some flags is set.
pub(super) fn any(left: Expr, of: &[&'static str]) -> Said {
    matches(left, Operator::IN, Expression::List(of.iter().map(|word| text(word)).collect()))
}

pub(super) fn looked_up(family: NATFamily, key: Expr, map: &'static str) -> NAT<'static> {
    let addr = Expression::Named(NamedExpression::Map(Box::new(Lookup { key, data: text(map) })));
    NAT { addr: Some(addr), family: Some(family), port: None, flags: None }
}

pub(super) fn dnat(family: NATFamily, key: Expr, map: &'static str) -> Said {
    Statement::DNAT(Some(looked_up(family, key, map)))
}

pub(super) fn snat(family: NATFamily, map: &'static str) -> Said {
    Statement::SNAT(Some(looked_up(family, iifname(), map)))
}
