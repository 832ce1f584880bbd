//! What a trigger may choose: where it begins, which events wait for each other, what becomes of ticks.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Ticks that came while no node ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They are gone.
    Skip,
    /// The last of them fires once.
    #[default]
    Once,
    /// Each of them fires, the latest hundred at most.
    All,
}

/// A tick while an earlier one still runs or waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is left out, and counted.
    #[default]
    Skip,
    /// It runs afterwards.
    Queue,
    /// It runs beside it.
    Allow,
}

/// Where a consumer begins when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With everything that the stream holds.
    #[default]
    All,
    /// With what comes from now on.
    New,
    /// With the first message at or after this time, in milliseconds since the Unix epoch.
    Time(i64),
}

impl Start {
    pub(super) fn is_all(&self) -> bool {
        *self == Self::All
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::New => f.write_str("new"),
            Self::Time(ms) => match jiff::Timestamp::from_millisecond(*ms) {
                Ok(time) => time.fmt(f),
                Err(_) => ms.fmt(f),
            },
        }
    }
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "new" => Ok(Self::New),
            _ => match text.parse::<jiff::Timestamp>() {
                Ok(time) => Ok(Self::Time(time.as_millisecond())),
                Err(_) => Err(format!("`{text}` is neither `all`, `new`, nor a time such as `2026-11-22T08:00:00Z`")),
            },
        }
    }
}

/// Which events of a stream wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// None: they run side by side, and one that is tried again is overtaken.
    #[default]
    None,
    /// Those of the same subject.
    Subject,
    /// Those with the same token at this place of the subject; the first is 1.
    Token(u8),
    /// All: one at a time in the whole cluster.
    All,
}

impl Order {
    pub(super) fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// What events must share to be kept in order with an event of `subject`; none if they need not.
    pub fn key(self, subject: &str) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Subject => Some(subject),
            Self::Token(at) => Some(subject.split('.').nth(usize::from(at).saturating_sub(1)).unwrap_or_default()),
            Self::All => Some(""),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Subject => f.write_str("subject"),
            Self::Token(at) => write!(f, "token:{at}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let token = |text: &str| text.strip_prefix("token:")?.parse().ok().filter(|at| *at > 0);
        match text {
            "none" => Ok(Self::None),
            "subject" => Ok(Self::Subject),
            "all" => Ok(Self::All),
            _ => token(text).map(Self::Token).ok_or_else(|| {
                format!(
                    "`{text}` is neither `none`, `subject`, `token:N` (the first token of a subject is 1), nor `all`"
                )
            }),
        }
    }
}

/// Types that are written as they are displayed.
macro_rules! text_serde {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_serde!(Start, Order);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_groups_by_what_it_names() {
        assert_eq!(Order::None.key("a.b"), None);
        assert_eq!(Order::Subject.key("a.b"), Some("a.b"));
        assert_eq!("token:2".parse::<Order>().unwrap().key("a.b.c"), Some("b"));
        assert_eq!(Order::Token(9).key("a.b"), Some(""));
        assert_eq!(Order::All.key("a.b"), Some(""));
        assert!("token:0".parse::<Order>().is_err() && "key".parse::<Order>().is_err());
    }
}
