//! What nodes say to each other about themselves: one version byte, then postcard, about 150 to 300 bytes.

use bytes::Bytes;
use dunlin_api::{Load, NodeName};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::view::{NodeInfo, NodeState};

/// The version of the frames; others are ignored.
const VERSION: u8 = 1;
/// Longest frame: room for labels, none for abuse.
pub(super) const MAX_FRAME_BYTES: usize = 4_096;

/// How a node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Beat {
    pub(super) info: Arc<NodeInfo>,
    pub(super) state: NodeState,
    pub(super) load: Load,
    pub(super) ready: u32,
    /// How often it sends one.
    pub(super) every_ms: u32,
    /// Counts what this process sent, so that what was overtaken is known as old.
    pub(super) sequence: u32,
    /// The sender's wall clock.
    pub(super) sent_us: i64,
}

/// A question that is answered at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) from: NodeName,
    /// The process that asks, so that another of the same name does not take the answer for its own.
    pub(super) boot: u64,
    /// The asker's wall clock.
    pub(super) sent_us: i64,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// To everyone, regularly.
    Beat(Beat),
    /// To everyone or to one.
    Ask(Ask),
    /// To the one who asked; `received_us` is when, by the clock of the one who answers.
    Answer { beat: Beat, ask: Ask, received_us: i64 },
}

/// Why a message is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("it has version {0} of the membership protocol, this node speaks {VERSION}")]
    Version(u8),
    #[error("it is malformed")]
    Malformed,
}

impl Frame {
    pub(super) fn encode(&self) -> Bytes {
        let frame = postcard::to_extend(self, vec![VERSION]);
        frame.expect("frames have no types that postcard cannot write").into()
    }

    /// The frame in `message`, which came on `subject`; heartbeats must come on the subject of their own node.
    pub(super) fn decode(subject: &str, message: &[u8]) -> Result<Self, FrameError> {
        let (version, rest) = message.split_first().ok_or(FrameError::Malformed)?;
        if *version != VERSION {
            return Err(FrameError::Version(*version));
        }
        if message.len() > MAX_FRAME_BYTES {
            return Err(FrameError::Malformed);
        }
        let frame: Self = postcard::from_bytes(rest).map_err(|_| FrameError::Malformed)?;
        let honest = match &frame {
            Self::Beat(beat) => {
                beat.state != NodeState::Lost && subject.rsplit('.').next() == Some(beat.info.node.as_str())
            }
            Self::Answer { beat, .. } => beat.state != NodeState::Lost,
            Self::Ask(_) => true,
        };
        if honest { Ok(frame) } else { Err(FrameError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn beat() -> Beat {
        let labels = [("region", "eu-central"), ("disk", "nvme"), ("gpu", "none")];
        let info = NodeInfo {
            node: "worker-17".parse().unwrap(),
            boot: u64::MAX,
            slots: 64,
            labels: labels.map(|(k, v)| (k.into(), v.into())).into(),
            zone: Some("eu-central-1a".into()),
            version: "0.1.0".into(),
            gateway: true,
            worker: true,
            http: Some("10.20.30.40:8080".into()),
            admin: Some("10.20.30.40:8081".into()),
            started_ms: 1_795_000_000_000,
        };
        let (load, sent_us) = (Load { in_flight: 12, slots: 64 }, 1_795_000_000_000_000);
        Beat { info: info.into(), state: NodeState::Up, load, ready: 40, every_ms: 400, sequence: 70_000, sent_us }
    }

    #[test]
    fn a_heartbeat_is_small_and_comes_back_as_it_was() {
        let frame = Frame::Beat(beat());
        let bytes = frame.encode();
        assert!(bytes.len() <= 300, "{}", bytes.len());
        assert_eq!(Frame::decode("dl.v1.c.hb.worker-17", &bytes), Ok(frame));
    }

    #[test]
    fn refuses_other_versions_other_senders_and_too_much() {
        let mut other = Frame::Beat(beat()).encode().to_vec();
        assert_eq!(Frame::decode("dl.v1.c.hb.worker-1", &other), Err(FrameError::Malformed));
        other[0] = 2;
        assert_eq!(Frame::decode("dl.v1.c.hb.worker-17", &other), Err(FrameError::Version(2)));
        let lost = Frame::Beat(Beat { state: NodeState::Lost, ..beat() }).encode();
        assert_eq!(Frame::decode("dl.v1.c.hb.worker-17", &lost), Err(FrameError::Malformed));
        let mut info = (*beat().info).clone();
        info.labels.insert("x".into(), "y".repeat(MAX_FRAME_BYTES));
        let large = Frame::Beat(Beat { info: info.into(), ..beat() }).encode();
        assert_eq!(Frame::decode("dl.v1.c.hb.worker-17", &large), Err(FrameError::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::decode("x", &bytes);
            let _ = Frame::decode("x", &[&[VERSION][..], &bytes].concat());
        }
    }
}
