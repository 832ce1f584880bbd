//! What a node's admin API answers, as far as commands read it. Unknown members are ignored, so that a newer node does
//! not break an older client; `--output json` passes on what is here, so that its shape is ours.

use dunlin_api::{FunctionName, Revision, RevisionId, Settings};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

use crate::exit::{Exit, Failure};

mod events;

pub(crate) use events::{Letter, LetterPage, LetterSummary, Published, Record, Redriven, State, Trigger};

/// One page of functions in order of their names.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Functions {
    pub(crate) functions: Vec<Summary>,
    /// The last name of this page, if there are more.
    #[serde(default, skip_serializing)]
    pub(crate) next: Option<FunctionName>,
}

/// One function in a list.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) name: FunctionName,
    pub(crate) version: u64,
    pub(crate) serving: Vec<Serving>,
    pub(crate) routes: Vec<String>,
}

/// A revision that serves, and its share of the calls.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Serving {
    pub(crate) revision: RevisionId,
    pub(crate) weight: u32,
}

/// One function with all its revisions, newest last.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Details {
    #[serde(flatten)]
    pub(crate) summary: Summary,
    pub(crate) revisions: Vec<Revision>,
    /// What fires it beside HTTP; older nodes do not say.
    #[serde(default)]
    pub(crate) triggers: Vec<Trigger>,
}

/// A node about itself.
#[derive(Debug, Deserialize)]
pub(crate) struct NodeInfo {
    pub(crate) http: Option<SocketAddr>,
}

impl Details {
    /// The revision that receives calls.
    pub(crate) fn serving(&self) -> anyhow::Result<&Revision> {
        let id = self.summary.serving.iter().max_by_key(|serving| serving.weight).map(|serving| &serving.revision);
        let found = self.revisions.iter().find(|revision| Some(&revision.id) == id);
        let name = &self.summary.name;
        Ok(found.ok_or_else(|| Failure::new(Exit::Platform, format!("no revision of `{name}` serves")))?)
    }

    pub(crate) fn settings(&self) -> anyhow::Result<&Settings> {
        self.serving().map(|revision| &revision.settings)
    }
}

impl NodeInfo {
    /// The URL of the node's HTTP front, without a trailing slash. Where it listens on every address, the host is the one
    /// by which `server` was reached.
    pub(crate) fn http_url(&self, server: &str) -> String {
        let server = reqwest::Url::parse(server).ok();
        let reached = server.as_ref().and_then(|url| url.host_str()).unwrap_or("127.0.0.1");
        match self.http {
            Some(address) if address.ip().is_unspecified() => format!("http://{reached}:{}", address.port()),
            Some(address) => format!("http://{address}"),
            None => format!("http://{reached}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_on_every_address_is_reached_where_its_api_was() {
        let url = |http: &str, server: &str| NodeInfo { http: http.parse().ok() }.http_url(server);
        assert_eq!(url("0.0.0.0:8080", "http://10.1.2.3:8081"), "http://10.1.2.3:8080");
        assert_eq!(url("127.0.0.1:80", "http://x:1"), "http://127.0.0.1:80");
        assert_eq!(url("[::]:80", "http://[::1]:1"), "http://[::1]:80");
    }

    #[test]
    fn a_list_keeps_its_shape_for_programs() {
        let text = r#"{"functions":[{"name":"a","version":3,"serving":[{"revision":"0123456789ab","weight":1}],
                       "routes":["/a/{*path}"],"new":1}],"next":"a"}"#;
        let list: Functions = serde_json::from_str(text).unwrap();
        assert_eq!(list.next.as_ref().map(FunctionName::as_str), Some("a"));
        assert_eq!(
            serde_json::to_string(&list).unwrap(),
            r#"{"functions":[{"name":"a","version":3,"serving":[{"revision":"0123456789ab","weight":1}],"routes":["/a/{*path}"]}]}"#
        );
    }
}
