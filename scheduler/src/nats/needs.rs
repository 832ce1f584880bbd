//! Which subjects a node must be allowed to use: the one list behind the start check and the documentation.

use dunlin_api::NodeName;

use super::Nats;

/// The name of no node: probes sent there reach nobody.
const NOBODY: &str = "dunlin-permission-check";

/// What a node does in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes requests and sends calls.
    Gateway,
    /// Receives calls and runs them.
    Worker,
    /// Both.
    Both,
}

/// The connection that something is needed on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Control,
    Bulk,
    Store,
}

/// One permission.
pub(super) struct Need {
    pub(super) purpose: Purpose,
    pub(super) publish: bool,
    pub(super) subject: String,
}

struct Needs(Vec<Need>);

impl Needs {
    fn add(&mut self, purpose: Purpose, publish: bool, subject: impl Into<String>) {
        self.0.push(Need { purpose, publish, subject: subject.into() });
    }
}

/// What a node needs in `role`.
pub(super) fn of(nats: &Nats, role: Role) -> Vec<Need> {
    use Purpose::{Bulk, Control};
    let (subjects, me) = (&nats.subjects, &nats.node);
    let nobody: NodeName = NOBODY.parse().expect("it is a name");
    let mut needs = Needs(Vec::new());
    needs.add(Control, true, format!("{}.x", subjects.inbox(&nobody)));
    needs.add(Control, true, subjects.heartbeat(me));
    needs.add(Control, true, subjects.roll_call());
    needs.add(Control, false, subjects.heartbeats());
    needs.add(Control, false, subjects.roll_call());
    needs.add(Control, true, subjects.membership(&nobody));
    needs.add(Control, false, subjects.membership(me));
    needs.add(Bulk, true, subjects.logs());
    needs.add(Bulk, false, subjects.logs());
    needs.add(Bulk, true, format!("{}.x", subjects.log_lines(&nobody)));
    needs.add(Bulk, false, format!("{}.*", subjects.log_lines(me)));
    needs.add(Control, true, subjects.signal(NOBODY));
    needs.add(Control, false, subjects.signal(">"));
    if role != Role::Worker {
        needs.add(Control, true, subjects.invoke(&nobody));
        needs.add(Control, true, subjects.control(&nobody));
        needs.add(Bulk, true, subjects.upload(&nobody));
        needs.add(Control, false, format!("{}.*", subjects.replies(me)));
        needs.add(Bulk, false, subjects.download(me));
        // What a node receives it also sends to itself, as proof that it will.
        needs.add(Control, true, format!("{}.start", subjects.replies(me)));
        needs.add(Bulk, true, subjects.download(me));
    }
    if role != Role::Gateway {
        needs.add(Control, false, subjects.invoke(me));
        needs.add(Control, false, subjects.control(me));
        needs.add(Bulk, false, subjects.upload(me));
        needs.add(Control, true, subjects.invoke(me));
        needs.add(Control, true, subjects.control(me));
        needs.add(Bulk, true, subjects.upload(me));
        needs.add(Control, true, format!("{}.x", subjects.replies(&nobody)));
        needs.add(Bulk, true, subjects.download(&nobody));
    }
    stores(nats, role, &mut needs);
    needs.0
}

/// The API of JetStream that the stores use, see [`crate::store::nats`]. What a trigger on a stream or a bucket of the
/// user's needs is not among it: nobody can tell before it is deployed.
fn stores(nats: &Nats, role: Role, needs: &mut Needs) {
    let (cluster, subjects) = (&nats.cluster, &nats.subjects);
    let bucket = |name: &str| format!("KV_dl-{cluster}-{name}");
    let (catalog, kv, nodes) = (bucket("catalog"), bucket("kv"), bucket("nodes"));
    let (outcomes, attempts) = (bucket("outcomes"), bucket("attempts"));
    let [artifacts, bodies] = ["artifacts", "bodies"].map(|name| format!("OBJ_dl-{cluster}-{name}"));
    let [work, dead] = ["work", "dead"].map(|name| format!("dl-{cluster}-{name}"));
    let every = [&catalog, &kv, &artifacts, &work, &dead, &outcomes, &attempts, &bodies];
    let mut publish = |subject: String| needs.add(Purpose::Store, true, subject);
    publish(format!("$JS.API.STREAM.INFO.{nodes}"));
    publish(format!("$JS.API.STREAM.CREATE.{nodes}"));
    publish(format!("$JS.API.DIRECT.GET.{nodes}.{NOBODY}"));
    publish(format!("$JS.API.CONSUMER.CREATE.{nodes}"));
    publish(format!("$JS.FC.{nodes}.{NOBODY}.x"));
    publish(format!("$KV.dl-{cluster}-nodes.{NOBODY}"));
    publish("$JS.API.INFO".into());
    publish("$JS.API.STREAM.NAMES".into());
    for stream in every {
        publish(format!("$JS.API.STREAM.INFO.{stream}"));
    }
    for stream in [&catalog, &artifacts, &work, &dead, &outcomes, &bodies] {
        publish(format!("$JS.API.STREAM.MSG.GET.{stream}"));
    }
    for stream in [&work, &dead] {
        publish(format!("$JS.API.STREAM.MSG.DELETE.{stream}"));
    }
    publish(format!("$JS.API.STREAM.PURGE.{bodies}"));
    for stream in [&catalog, &outcomes] {
        publish(format!("$JS.API.CONSUMER.CREATE.{stream}.{NOBODY}"));
        publish(format!("$JS.FC.{stream}.{NOBODY}.x"));
    }
    for stream in [&kv, &work] {
        publish(format!("$JS.API.CONSUMER.CREATE.{stream}.{NOBODY}.x"));
        publish(format!("$JS.API.CONSUMER.INFO.{stream}.{NOBODY}"));
        publish(format!("$JS.API.CONSUMER.DELETE.{stream}.{NOBODY}"));
    }
    publish(subjects.work(NOBODY));
    publish(subjects.dead(NOBODY));
    publish(format!("$KV.dl-{cluster}-outcomes.{NOBODY}"));
    publish(format!("$O.dl-{cluster}-bodies.C.{NOBODY}"));
    publish(format!("$O.dl-{cluster}-bodies.M.{NOBODY}"));
    if role != Role::Worker {
        for stream in every {
            publish(format!("$JS.API.STREAM.CREATE.{stream}"));
        }
        for stream in [&catalog, &artifacts, &outcomes] {
            publish(format!("$JS.API.STREAM.PURGE.{stream}"));
        }
        publish(format!("$KV.dl-{cluster}-catalog.{NOBODY}"));
        publish(format!("$O.dl-{cluster}-artifacts.C.{NOBODY}"));
        publish(format!("$O.dl-{cluster}-artifacts.M.{NOBODY}"));
    }
    if role != Role::Gateway {
        publish(format!("$KV.dl-{cluster}-kv.{NOBODY}"));
        publish(format!("$KV.dl-{cluster}-attempts.{NOBODY}"));
        publish(format!("$JS.API.STREAM.MSG.GET.{kv}"));
        publish(format!("$JS.API.STREAM.MSG.GET.{attempts}"));
        publish(format!("$JS.API.STREAM.MSG.DELETE.{attempts}"));
        for stream in [&kv, &work] {
            publish(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{NOBODY}"));
        }
        publish(format!("$JS.API.CONSUMER.UNPIN.{work}.{NOBODY}"));
        publish(format!("$JS.ACK.{NOBODY}.x"));
    }
}
