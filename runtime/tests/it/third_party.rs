//! Components that others' toolkits made, in Rust, JavaScript and Python, 0.2 and 0.3.

use crate::support::*;
use dunlin_api::*;

#[test]
fn components_of_every_toolkit_answer() {
    run(async {
        let node = Node::start();
        for name in ["thirdparty-wstd", "thirdparty-spin", "thirdparty-wasip3", "thirdparty-js", "thirdparty-python"] {
            let revision = node.deploy(name, Settings::default()).await;
            let request = post("/some/path", Body::full("12345"));
            let response =
                node.executor.invoke(call(&revision, request)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(response.status(), 200, "{name}");
            let answer = text(response).await;
            assert!(answer.contains("/some/path"), "{name}: {answer}");
        }
    });
}

#[test]
fn the_samples_answer() {
    run(async {
        let node = Node::start();
        let markdown = node.deploy("markdown", Settings::default()).await;
        let html = node
            .executor
            .invoke(call(&markdown, post("/markdown", Body::full("# Title"))))
            .await
            .unwrap_or_else(|e| panic!("{e}: {:?}", node.logs.all()));
        assert!(text(html).await.contains("<h1"));
        let wordcount = node.deploy("wordcount", Settings::default()).await;
        let counted = node
            .executor
            .invoke(call(&wordcount, post("/wordcount", Body::full("one two two"))))
            .await
            .unwrap_or_else(|e| panic!("{e}: {:?}", node.logs.all()));
        assert!(text(counted).await.contains("two"));
        let hello = node.deploy("hello", Settings::default()).await;
        assert!(node.text(&hello, "/hello?name=Ada").await.contains("Ada"));
    });
}
