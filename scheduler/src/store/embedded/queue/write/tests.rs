//! Bounds and times of the tables: both are arguments here.

use super::{
    super::super::database::{Handle, Place},
    *,
};

const DAY: u64 = 24 * 3_600 * 1_000;

struct Database(Handle, #[expect(dead_code, reason = "it goes with the directory")] tempfile::TempDir);

impl Database {
    fn new() -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let handle = Handle::open(&Place::File(dir.path().join("queue.redb")), 1 << 20, |_| Ok(())).unwrap();
        Self(handle, dir)
    }

    fn at<T>(&self, now: u64, work: impl FnOnce(&mut Tables<'_>) -> Applied<T>) -> Result<T, StoreError> {
        let transaction = self.0.get().unwrap().begin_write().unwrap();
        let result = work(&mut Tables::open(&transaction, now, 1_000).unwrap()).unwrap();
        transaction.commit().unwrap();
        result
    }

    fn append(&self, now: u64, to: &To, subject: &str, id: Option<&str>) -> Result<u64, StoreError> {
        let message = Message::new(subject, vec![0; 100]);
        self.at(now, |tables| tables.append(to, &message, id))
    }

    fn resolve(&self, now: u64, stream: Option<&str>, subject: &str) -> Result<String, StoreError> {
        self.at(now, |tables| tables.resolve(stream, subject))
    }

    fn count(&self, log: &str) -> u64 {
        let count = |tables: &mut Tables<'_>| Ok(Ok(tables.sizes.get(log)?.map_or(0, |size| size.value().0)));
        self.at(0, count).unwrap()
    }
}

#[test]
fn a_full_log_refuses_and_takes_more_when_there_is_room() {
    let database = Database::new();
    let mut last = 0;
    let full = loop {
        match database.append(0, &To::Work, "f.async", None) {
            Ok(sequence) => last = sequence,
            Err(error) => break error,
        }
    };
    assert!(matches!(&full, StoreError::Unavailable(words) if words.contains("1000 bytes")), "{full}");
    assert_eq!(last, 9, "100 bytes of payload, and some more");
    database.append(0, &To::Work, "g.async", None).expect("another queue has room");
    assert!(database.at(0, |tables| Ok(Ok(tables.remove("work/f.async", 1)?))).unwrap());
    database.append(0, &To::Work, "f.async", None).unwrap();
}

#[test]
fn an_id_is_known_for_its_time() {
    let database = Database::new();
    let (start, window) = (DAY, DUPLICATES.as_millis() as u64);
    let first = database.append(start, &To::Work, "f.async", Some("id")).unwrap();
    assert_eq!(database.append(start + window, &To::Work, "f.async", Some("id")).unwrap(), first);
    assert_ne!(database.append(start + window + 1, &To::Work, "f.async", Some("id")).unwrap(), first);
    let ids = |tables: &mut Tables<'_>| Ok(Ok((tables.ids.len()?, tables.id_times.len()?)));
    assert_eq!(database.at(0, ids).unwrap(), (1, 1), "old ids are forgotten");
}

#[test]
fn dead_letters_stay_for_thirty_days() {
    let database = Database::new();
    for n in 0..3 {
        database.append(DAY + n, &To::Dead, "f.stream-1", None).unwrap();
    }
    database.append(31 * DAY, &To::Dead, "f.stream-1", None).unwrap();
    assert_eq!(database.count(DEAD), 4);
    database.append(31 * DAY + 2, &To::Dead, "f.stream-1", None).unwrap();
    assert_eq!(database.count(DEAD), 3, "two are older than that");
}

#[test]
fn a_named_stream_takes_what_its_triggers_want_and_streams_do_not_overlap() {
    let database = Database::new();
    assert_eq!(database.resolve(0, Some("ORDERS"), "orders.paid").unwrap(), "ORDERS");
    assert_eq!(database.resolve(0, Some("ORDERS"), "orders.new").unwrap(), "ORDERS");
    assert_eq!(database.resolve(0, None, "orders.paid").unwrap(), "ORDERS");
    for (stream, subject) in [(None, "orders.*"), (Some("OTHER"), "orders.paid"), (Some("OTHER"), ">")] {
        let refused = database.resolve(0, stream, subject).unwrap_err();
        assert!(matches!(&refused, StoreError::Invalid(words) if words.contains("ORDERS")), "{refused}");
    }
    assert_eq!(database.resolve(0, Some("ORDERS"), "orders.*").unwrap(), "ORDERS");
    assert_eq!(database.resolve(0, None, "orders.late").unwrap(), "ORDERS");
}

#[test]
fn a_stream_without_consumers_makes_way_after_a_while() {
    let database = Database::new();
    let narrow = database.resolve(0, None, "orders.paid").unwrap();
    let young = 600_000;
    assert!(database.resolve(young, None, "orders.>").is_err(), "its first consumer may be about to come");
    database.at(young, |tables| tables.ensure(&narrow, "c", "orders.paid", Start::All)).unwrap();
    assert!(database.resolve(young + 1, None, "orders.>").is_err(), "it has a consumer");
    database.at(young, |tables| tables.remove_consumer(&stream(&narrow), "c").map(Ok)).unwrap();
    let wide = database.resolve(young + 1, None, "orders.>").unwrap();
    assert_ne!(wide, narrow);
    assert_eq!(database.resolve(young + 1, None, "orders.paid").unwrap(), wide);
}

#[test]
fn a_message_of_a_stream_stays_until_all_have_it_and_without_anybody_is_not_kept() {
    let database = Database::new();
    let name = database.resolve(0, None, "orders.>").unwrap();
    let (to, log) = (To::Stream(name.clone()), stream(&name));
    assert_eq!(database.append(0, &to, "orders.a", None).unwrap(), 1);
    assert_eq!(database.count(&log), 0);
    for (consumer, subject) in [("all", "orders.>"), ("some", "orders.b")] {
        database.at(0, |tables| tables.ensure(&name, consumer, subject, Start::All)).unwrap();
    }
    let a = database.append(0, &to, "orders.a", None).unwrap();
    let b = database.append(0, &to, "orders.b", None).unwrap();
    assert_eq!((a, b, database.count(&log)), (2, 3, 2));
    let ended = |sequence, consumer| database.at(0, |tables| tables.ended(&log, sequence, consumer).map(Ok)).unwrap();
    ended(a, "all");
    assert_eq!(database.count(&log), 1, "nobody else wanted it");
    ended(b, "all");
    ended(b, "all");
    assert_eq!(database.count(&log), 1);
    ended(b, "some");
    assert_eq!(database.count(&log), 0);
    let marks = |tables: &mut Tables<'_>| Ok(Ok(tables.marks.len()?));
    assert_eq!(database.at(0, marks).unwrap(), 0, "nothing is left of it");
}
