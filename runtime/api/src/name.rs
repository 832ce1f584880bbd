//! Names that are safe wherever they are used: as a DNS label, a path segment, a file name and a NATS subject token.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr, sync::Arc};

use crate::{Digest, Settings};

/// The longest name: one DNS label (RFC 1123 §2.1), so that `<function>.internal` is a host name.
const MAX_NAME_BYTES: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not {kind}: use 1 to {MAX_NAME_BYTES} of a-z, 0-9 and `-`, with a letter or digit at both ends",
    .text.escape_debug()
)]
pub struct NameError {
    kind: &'static str,
    text: String,
}

impl NameError {
    /// A hostile name may be megabytes long; its start is enough to find it.
    fn new(kind: &'static str, text: &str) -> Self {
        Self { kind, text: text.chars().take(80).collect() }
    }
}

/// A DNS label: `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`.
fn label(kind: &'static str, text: &str) -> Result<Arc<str>, NameError> {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let ends_well = !bytes.starts_with(b"-") && !bytes.ends_with(b"-");
    if !bytes.is_empty() && bytes.len() <= MAX_NAME_BYTES && bytes.iter().all(inner) && ends_well {
        Ok(text.into())
    } else {
        Err(NameError::new(kind, text))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                label($kind, text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A function's name: one DNS label, `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`.
    FunctionName, "a function name"
}
name! {
    /// The name of a node, unique in its cluster: one DNS label.
    NodeName, "the name of a node"
}
name! {
    /// The name of a cluster; clusters of different names share a NATS without seeing each other: one DNS label.
    ClusterName, "the name of a cluster"
}

/// Names one immutable revision by its content: the first 12 hex digits of the SHA-256 over artifact and settings, so
/// that the same bytes with the same settings are the same revision wherever and whenever they are deployed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RevisionId(Arc<str>);

impl RevisionId {
    /// The id of `artifact` run with `settings`.
    pub fn of(artifact: &Digest, settings: &Settings) -> Self {
        let mut hash = Sha256::new();
        hash.update(artifact.as_bytes());
        hash.update(serde_json::to_vec(settings).expect("settings hold no map with keys other than strings"));
        let digest = Digest::from_bytes(hash.finalize().into());
        Self(digest.to_string()[..12].into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RevisionId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl FromStr for RevisionId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 12 && text.bytes().all(hex) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::new("the id of a revision", text))
        }
    }
}

impl From<RevisionId> for String {
    fn from(id: RevisionId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_dns_labels_and_refuses_everything_that_could_escape() {
        for good in ["a", "0", "a-b", "checkout", &"x".repeat(63)] {
            assert!(good.parse::<FunctionName>().is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for bad in
            ["", "-a", "a-", "A", "a.b", "a/b", "..", "a b", "a\0", "*", ">", "$x", "a%2f", "é", "🐦", "a\r\nb", &long]
        {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refused_name_is_quoted_short_and_escaped() {
        let error = format!("a\n{}", "b".repeat(10_000)).parse::<FunctionName>().unwrap_err();
        assert!(error.to_string().len() < 300 && !error.to_string().contains('\n'));
    }

    proptest! {
        #[test]
        fn whatever_parses_is_a_single_safe_token(text in ".{0,80}") {
            if let Ok(name) = text.parse::<FunctionName>() {
                prop_assert!(name.as_str().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            }
        }
    }
}
