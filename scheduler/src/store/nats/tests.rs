//! What happens after an hour, with the hour made short.

use async_nats::{HeaderMap, jetstream::stream::Info};
use bytes::Bytes;
use dunlin_api::{Artifacts, ByteSize, Digest};
use dunlin_fixtures::nats::NatsServer;
use futures::{StreamExt, stream};
use std::time::Duration;

use super::{NatsArtifacts, NatsCatalog, bucket::Bucket, open, plans};
use crate::{
    nats::{Nats, NatsConfig},
    store::{ArtifactStore, CatalogStore},
};

async fn buckets(server: &NatsServer) -> [Bucket; 8] {
    let (cluster, node) = ("test".parse().unwrap(), "a".parse().unwrap());
    let nats = Nats::connect(&NatsConfig::new(server.url(), cluster, node)).await.unwrap();
    let opened = plans(&nats.cluster).map(|plan| open(&nats.jetstream, plan));
    futures::future::join_all(opened).await.into_iter().map(Result::unwrap).collect::<Vec<_>>().try_into().ok().unwrap()
}

async fn messages(bucket: &Bucket) -> u64 {
    bucket.api::<Info>("STREAM.INFO", &()).await.unwrap().state.messages
}

#[tokio::test]
async fn a_listing_removes_old_markers_and_what_they_cover_and_nothing_else() {
    let server = NatsServer::start();
    let [bucket, ..] = buckets(&server).await;
    let mut catalog = NatsCatalog::new(bucket.clone());
    let version = catalog.put("rev/a/1", "1".into(), None).await.unwrap();
    let version = catalog.put("rev/a/1", "2".into(), Some(version)).await.unwrap();
    catalog.delete("rev/a/1", version).await.unwrap();
    catalog.put("rev/a/2", "kept".into(), None).await.unwrap();
    assert_eq!(catalog.list("rev/").await.unwrap().len(), 1);
    assert_eq!(messages(&bucket).await, 4, "a young marker stays");
    catalog.marker_age = Duration::ZERO;
    assert_eq!(catalog.list("rev/").await.unwrap().len(), 1);
    assert_eq!(messages(&bucket).await, 1);
    assert_eq!(catalog.get("rev/a/1").await.unwrap(), None, "no older state comes back");
    catalog.put("rev/a/1", "again".into(), None).await.unwrap();
}

#[tokio::test]
async fn a_listing_removes_what_is_left_of_old_uploads_and_no_artifact() {
    let server = NatsServer::start();
    let [_, _, bucket, ..] = buckets(&server).await;
    let mut artifacts = NatsArtifacts::new(bucket.clone());
    let digest = Digest::of(b"component");
    let whole = stream::iter([Ok(Bytes::from_static(b"component"))]).boxed();
    artifacts.put(digest, whole, ByteSize(100)).await.unwrap();
    // An upload whose node was killed after its first chunk.
    let subject = artifacts.objects.chunks("cut-off");
    bucket.write("writing", &subject, HeaderMap::new(), "half".into(), None).await.unwrap();
    artifacts.list().await.unwrap();
    assert_eq!(messages(&bucket).await, 3, "it may be under way");
    artifacts.objects.upload_age = Duration::ZERO;
    assert_eq!(artifacts.list().await.unwrap().len(), 1);
    assert_eq!(messages(&bucket).await, 2);
    assert_eq!(artifacts.fetch(digest).await.unwrap(), "component");
}
