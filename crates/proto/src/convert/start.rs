//! Where something begins, which several messages say alike.

use railgun_types::{Offset, StartPosition, Timestamp};

use crate::v1;

/// The same five ways to say where something begins.
macro_rules! start {
    ($module:ident) => {
        impl From<v1::$module::Start> for StartPosition {
            /// The booleans count by being there, whatever their value.
            fn from(start: v1::$module::Start) -> Self {
                use v1::$module::Start;
                match start {
                    Start::Earliest(_) => Self::Earliest,
                    Start::Latest(_) => Self::Latest,
                    Start::Offset(offset) => Self::Offset(Offset(offset)),
                    Start::TimeUs(time) => Self::Time(Timestamp(time)),
                    Start::Last(count) => Self::Last(count),
                }
            }
        }

        impl From<StartPosition> for v1::$module::Start {
            fn from(start: StartPosition) -> Self {
                match start {
                    StartPosition::Earliest => Self::Earliest(true),
                    StartPosition::Latest => Self::Latest(true),
                    StartPosition::Offset(offset) => Self::Offset(offset.0),
                    StartPosition::Time(time) => Self::TimeUs(time.0),
                    StartPosition::Last(count) => Self::Last(count),
                }
            }
        }
    };
}

start!(ensure_group);
start!(reset_group);
start!(subscribe);
