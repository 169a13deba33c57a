//! What can happen, at random.

use proptest::prelude::*;

use crate::session::tests::types::ResourceType;

/// A type and a name, by their places.
pub(super) type Spot = (u8, u8);

#[derive(Clone, Debug)]
pub(super) enum Op {
    /// One snapshot; content, or `None` for a removal.
    Publish(Vec<(Spot, Option<u8>)>),
    Open(u8),
    Subscribe(Spot),
    Unsubscribe(Spot),
    /// LDS or CDS.
    Everything(u8, bool),
    /// The same request once more.
    Repeat(u8),
    /// One request reaches the server.
    Deliver,
    /// One response reaches the client.
    Receive,
    /// Everything that is on its way arrives, until nobody has anything to say.
    Settle,
    /// Bad resources become good, and what was rejected changes.
    Heal,
    Reconnect {
        order: u8,
        wrong: bool,
    },
    /// The server no longer waits for an answer.
    TimedOut(u8),
    /// A request that no conforming client sends.
    Rogue(u8, Rogue),
}

/// The types that a sequence is about: few of them get deeper in as many steps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Focus {
    All,
    Warming,
    One(u8),
}

impl Focus {
    pub(super) fn pick(self, at: u8) -> ResourceType {
        let at = match self {
            Self::All => at,
            Self::Warming => at % 2,
            Self::One(only) => only,
        };
        ResourceType::IN_ORDER[usize::from(at)]
    }
}

pub(super) fn focus() -> impl Strategy<Value = Focus> {
    prop_oneof![
        1 => Just(Focus::All),
        1 => Just(Focus::Warming),
        2 => (0..4u8).prop_map(Focus::One),
    ]
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Rogue {
    ForeignNonce,
    ForeignNack,
    Duplicates,
    NoNonce,
    UnknownType,
    /// From here on the type's subscription is not what the client thinks.
    OtherNames(u8),
    /// Answers what the client has not seen.
    ForgedAck,
    ForgedNack,
}

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let resource_type = 0..4u8;
    let spot = || (0..4u8, 0..5u8);
    let content = proptest::option::weighted(0.75, 0..4u8);
    let change = ((0..4u8, 0..4u8), content);
    let rogue = prop_oneof![
        Just(Rogue::ForeignNonce),
        Just(Rogue::ForeignNack),
        Just(Rogue::Duplicates),
        Just(Rogue::NoNonce),
        Just(Rogue::UnknownType),
        any::<u8>().prop_map(Rogue::OtherNames),
        Just(Rogue::ForgedAck),
        Just(Rogue::ForgedNack),
    ];
    let op = prop_oneof![
        6 => proptest::collection::vec(change, 1..4).prop_map(Op::Publish),
        3 => resource_type.clone().prop_map(Op::Open),
        6 => spot().prop_map(Op::Subscribe),
        3 => spot().prop_map(Op::Unsubscribe),
        2 => (resource_type.clone(), any::<bool>()).prop_map(|(resource_type, on)| Op::Everything(resource_type, on)),
        1 => resource_type.clone().prop_map(Op::Repeat),
        6 => Just(Op::Deliver),
        6 => Just(Op::Receive),
        3 => Just(Op::Settle),
        1 => Just(Op::Heal),
        2 => (0..8u8, any::<bool>()).prop_map(|(order, wrong)| Op::Reconnect { order, wrong }),
        1 => resource_type.clone().prop_map(Op::TimedOut),
        1 => (resource_type, rogue).prop_map(|(resource_type, rogue)| Op::Rogue(resource_type, rogue)),
    ];
    proptest::collection::vec(op, 1..30)
}
