//! One name, one process.

use super::*;

#[tokio::test]
async fn a_name_is_not_taken_from_a_process_that_lives() {
    let server = NatsServer::start();
    let first = Node::join(&server, "a").await;
    let refused = Node::with(&server.url(), "a", config()).await.err().unwrap();
    assert!(matches!(refused, JoinError::NameTaken { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("`a`") && text.contains("a.example:8080") && text.contains("--name"), "{text}");
    first.hears("a", Instant::now()).await;
    assert!(!first.task.is_finished());
}

#[tokio::test]
async fn of_two_that_begin_together_one_is_refused() {
    let server = NatsServer::start();
    let url = server.url();
    let (one, other) = tokio::join!(Node::with(&url, "a", config()), Node::with(&url, "a", config()));
    let taken = |joined: &Result<Node, JoinError>| matches!(joined, Err(JoinError::NameTaken { .. }));
    assert!(one.is_ok() != other.is_ok() && (taken(&one) || taken(&other)), "{:?} {:?}", one.err(), other.err());
}

#[tokio::test]
async fn the_name_of_a_dead_process_is_taken_at_once() {
    let server = NatsServer::start();
    let watcher = Node::join(&server, "w").await;
    drop(Node::join(&server, "a").await);
    let begun = Instant::now();
    let second = Node::join(&server, "a").await;
    assert!(begun.elapsed() >= config().takeover, "the first might have lived");
    let boot = second.membership.view().get(&name("a")).unwrap().info.boot;
    let new = |members: &Members| is(members, "a", |a| a.info.boot == boot && a.state == NodeState::Up);
    watcher.sees("the second process", new).await;
    second.leave().await;
    let begun = Instant::now();
    let _third = Node::join(&server, "a").await;
    println!("the name of one that left in order was taken in {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_process_that_lost_its_name_ends_when_it_wakes() {
    let server = NatsServer::start();
    let watcher = Node::join(&server, "w").await;
    let mut frozen = Apart::join(&server, "a");
    watcher.sees_state("a", NodeState::Up).await;
    frozen.freeze();
    watcher.sees_state("a", NodeState::Lost).await;
    let second = Node::join(&server, "a").await;
    let boot = second.membership.view().get(&name("a")).unwrap().info.boot;
    frozen.thaw();
    assert_eq!(frozen.ended(), Ended::Superseded);
    let second_is_up = |members: &Members| is(members, "a", |a| a.info.boot == boot && a.state == NodeState::Up);
    watcher.sees("the second process", second_is_up).await;
    second.hears("w", Instant::now()).await;
    assert!(!second.task.is_finished());
}

/// A member with a thread and a runtime of its own, which can be stopped as SIGSTOP stops a process.
pub(super) struct Apart {
    pub(super) membership: Arc<Membership>,
    runtime: tokio::runtime::Handle,
    thaw: Option<std::sync::mpsc::SyncSender<()>>,
    ended: std::sync::mpsc::Receiver<Ended>,
}

impl Apart {
    pub(super) fn join(server: &NatsServer, node: &str) -> Self {
        let (url, node) = (server.url(), node.to_owned());
        let (joined, started) = std::sync::mpsc::sync_channel(1);
        let (end, ended) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut node = Node::with(&url, &node, config()).await.unwrap();
                joined.send((node.membership.clone(), tokio::runtime::Handle::current())).unwrap();
                let _ = end.send((&mut node.task).await.unwrap());
            });
        });
        let (membership, runtime) = started.recv().unwrap();
        Self { membership, runtime, thaw: None, ended }
    }

    pub(super) fn freeze(&mut self) {
        let (thaw, thawed) = std::sync::mpsc::sync_channel::<()>(0);
        let (stopping, stopped) = std::sync::mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            stopping.send(()).unwrap();
            let _ = thawed.recv();
        });
        stopped.recv().unwrap();
        self.thaw = Some(thaw);
    }

    pub(super) fn thaw(&mut self) {
        self.thaw = None;
    }

    fn ended(&self) -> Ended {
        self.ended.recv_timeout(PATIENCE).unwrap()
    }
}
