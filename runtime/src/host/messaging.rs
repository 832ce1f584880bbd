//! `wasmcloud:messaging/consumer@0.2` (<https://github.com/wasmCloud/messaging>) over whatever stands behind
//! [`dunlin_api::Publish`]: what a function may send, and how much of it.
//!
//! The sandbox has one [`MessagingGrant`] per revision and one [`MessagingCtx`] per store, and links [`add_to_linker`] once
//! per engine. A message goes only to a subject that `publish` in the manifest covers, or to the one that the message
//! being handled asks for a reply on. A guest waits for each message until it is sent, so it cannot run ahead of the store.
//! Bounds: [`MAX_MESSAGES`] and [`MAX_MESSAGES_BYTES`] per invocation, the store's own limit for one message, and for
//! requests `limits.outbound`; every wait ends with the invocation's deadline.

#[cfg(test)]
mod tests;

use dunlin_api::{
    ByteSize, Message, Publish, StoreError,
    subject::{check_not_reserved, check_subject, covers, is_inbox},
};
use http::{HeaderName, HeaderValue};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use wasmtime::component::{HasData, Linker};

use super::{Outbound, Output};
use bindings::wasmcloud::messaging::{
    consumer,
    types::{self, BrokerMessage},
};

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/deps/messaging",
        world: "wasmcloud:messaging/component",
        imports: { default: async },
        exports: { default: async },
    });
}

/// Messages that one invocation may send, requests among them.
pub const MAX_MESSAGES: u32 = 10_000;
/// Bytes of all of them together.
pub const MAX_MESSAGES_BYTES: u64 = 256 << 20;
/// The header that has the subject to reply to; only Dunlin sets it.
pub const REPLY_TO: HeaderName = HeaderName::from_static("dunlin-reply-to");

/// What a revision may send. Shared by all its stores.
pub struct MessagingGrant {
    /// Where messages go.
    pub publish: Arc<dyn Publish>,
    /// The subjects that it may publish to, with wildcards (`settings.publish`).
    pub subjects: Vec<String>,
}

/// What the invocation of one store may send, and has sent.
pub struct MessagingCtx {
    grant: Arc<MessagingGrant>,
    reply_to: Option<HeaderValue>,
    messages: u32,
    bytes: u64,
}

impl MessagingCtx {
    /// A store may send what `grant` allows.
    pub fn new(grant: Arc<MessagingGrant>) -> Self {
        Self { grant, reply_to: None, messages: 0, bytes: 0 }
    }

    /// Counts anew for the next invocation of the same store, which may reply to `reply_to`. Of several invocations at once
    /// in one instance only the one that began last has its reply subject.
    pub fn begin(&mut self, reply_to: Option<HeaderValue>) {
        (self.reply_to, self.messages, self.bytes) = (reply_to, 0, 0);
    }

    fn allows(&self, subject: &str) -> bool {
        self.grant.subjects.iter().any(|pattern| covers(pattern, subject))
            || self.reply_to.as_ref().is_some_and(|reply| reply == subject.as_bytes() && may_be_replied_to(subject))
    }

    /// Counts a message of `bytes`.
    fn count(&mut self, bytes: usize) -> Result<(), String> {
        if self.messages >= MAX_MESSAGES {
            return Err(format!("one invocation sends at most {MAX_MESSAGES} messages: send the others in another"));
        }
        let total = self.bytes + bytes as u64;
        if total > MAX_MESSAGES_BYTES {
            let limit = ByteSize(MAX_MESSAGES_BYTES);
            return Err(format!("one invocation sends at most {limit} in messages: send the others in another"));
        }
        (self.messages, self.bytes) = (self.messages + 1, total);
        Ok(())
    }
}

/// Whoever sent the message chose the subject, and must not reach through a function what NATS denies to himself: neither
/// NATS's own API nor the cluster's subjects, but for the inboxes in which nodes await replies.
fn may_be_replied_to(subject: &str) -> bool {
    check_not_reserved(subject).is_ok() || is_inbox(subject)
}

/// What host functions work on.
pub struct MessagingView<'a> {
    /// What may be sent.
    pub ctx: &'a mut MessagingCtx,
    /// Counts requests, and knows the deadline.
    pub outbound: &'a mut Outbound,
    /// Where refusals are remarked.
    pub output: &'a Output,
}

/// Names [`MessagingView`] as the data of these host functions.
struct HasMessaging;

impl HasData for HasMessaging {
    type Data<'a> = MessagingView<'a>;
}

/// Offers the interface on an engine, with component-model concurrency or without.
///
/// # Errors
/// If `linker` has it already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> MessagingView<'_>,
) -> wasmtime::Result<()> {
    types::add_to_linker::<_, HasMessaging>(linker, view)?;
    consumer::add_to_linker::<_, HasMessaging>(linker, view)
}

impl MessagingView<'_> {
    /// Checks and counts a message that is about to be sent.
    fn admit(&mut self, subject: &str, body: &[u8]) -> Result<(), String> {
        check_subject(subject)?;
        if !self.ctx.allows(subject) {
            let refusal = format!("not granted: add \"{subject}\" to `publish` in dunlin.toml");
            self.output.remark(format_args!("refused a message to {subject}, {refusal}"));
            return Err(refusal);
        }
        self.ctx.count(subject.len() + body.len())
    }
}

impl types::Host for MessagingView<'_> {}

impl consumer::Host for MessagingView<'_> {
    async fn publish(&mut self, message: BrokerMessage) -> Result<(), String> {
        let BrokerMessage { subject, body, reply_to } = message;
        if reply_to.is_some_and(|reply| !reply.is_empty()) {
            // A stream acknowledges a message on the very subject that would be the reply's.
            return Err("a published message has no reply-to here: leave it out, or use `request`".into());
        }
        self.admit(&subject, &body)?;
        let sent = self.ctx.grant.publish.publish(Message::new(subject, body));
        match timeout_at(self.outbound.deadline(), sent).await {
            Ok(sent) => sent.map(drop).map_err(explain),
            Err(_) => Err("limits.timeout passed before the message was sent".into()),
        }
    }

    async fn request(&mut self, subject: String, body: Vec<u8>, timeout_ms: u32) -> Result<BrokerMessage, String> {
        self.admit(&subject, &body)?;
        self.outbound.count()?;
        let asked = Instant::now();
        let until = self.outbound.deadline().min(asked + Duration::from_millis(timeout_ms.into()));
        let late = || format!("no reply to `{subject}` came within {} ms", (until - asked).as_millis());
        let message = Message::new(subject.clone(), body);
        match timeout_at(until, self.ctx.grant.publish.request(message, until - asked)).await {
            Ok(Ok(reply)) => Ok(BrokerMessage { subject: reply.subject, body: reply.payload.into(), reply_to: None }),
            Ok(Err(StoreError::NotFound(_))) => Err(format!("nobody listens on `{subject}`")),
            Ok(Err(StoreError::Unavailable(_))) if Instant::now() >= until => Err(late()),
            Ok(Err(error)) => Err(explain(error)),
            Err(_) => Err(late()),
        }
    }
}

/// An error of the store's, for the function's author.
fn explain(error: StoreError) -> String {
    match error {
        StoreError::Invalid(_) | StoreError::NotFound(_) => error.to_string(),
        StoreError::Conflict(_) | StoreError::Corrupt(..) | StoreError::Unavailable(_) => {
            // What failed is the operator's business, not the guest's.
            tracing::warn!(%error, "a message could not be sent");
            "messages cannot be sent now: try again later".into()
        }
    }
}
