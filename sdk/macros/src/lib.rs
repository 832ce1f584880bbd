//! The attributes `#[dunlin_sdk::http]` and `#[dunlin_sdk::event]`.
//!
//! Used by `dunlin-sdk` only, which re-exports them. They leave the function as written and add the `wasi:http` export that
//! calls it. They read no more of the source than the function's name, so they need no parser and add no build time.

use proc_macro::{TokenStream, TokenTree};

/// Makes a function the component's HTTP handler (`wasi:http/incoming-handler` 0.2).
///
/// The function takes one `dunlin_sdk::Request` and returns anything that is `IntoResponse`. It may be an `async fn`: it
/// then runs on `dunlin_sdk::task`.
///
/// `#[dunlin_sdk::http(events = on_event)]` gives events to another function, which has no attribute: it takes one
/// `dunlin_sdk::Event` and returns what `#[dunlin_sdk::event]` allows. All other requests come here.
///
/// One attribute of this crate per component.
#[proc_macro_attribute]
pub fn http(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand("http", item, |function| {
        let http = if function.is_async {
            format!("|request| ::dunlin_sdk::task::block_on({}(request))", function.name)
        } else {
            function.name
        };
        Ok(match events(arguments)? {
            Some(events) => format!("|request| ::dunlin_sdk::guest::route(request, {events}, {http})"),
            None => http,
        })
    })
}

/// Makes a function the component's handler of events (`wasi:http/incoming-handler` 0.2, as events are requests).
///
/// The function takes one `dunlin_sdk::Event` and returns what is `IntoOutcome`, such as `Result<(), EventError>`. It may be
/// an `async fn`: it then runs on `dunlin_sdk::task`. Requests that are no events are answered with 404;
/// `#[dunlin_sdk::http(events = …)]` is for functions that take both.
///
/// One attribute of this crate per component.
#[proc_macro_attribute]
pub fn event(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand("event", item, |function| {
        if !arguments.is_empty() {
            return Err("#[dunlin_sdk::event] takes no arguments: triggers are set in dunlin.toml".into());
        }
        Ok(format!("|request| ::dunlin_sdk::guest::route(request, {}, ::dunlin_sdk::guest::no_event)", function.name))
    })
}

/// The function under an attribute, as far as it matters here.
struct Function {
    name: String,
    is_async: bool,
}

/// The item, and the export of the handler that `handler` writes as an expression; or the item and a compile error.
fn expand(attribute: &str, item: TokenStream, handler: impl FnOnce(Function) -> Result<String, String>) -> TokenStream {
    let mut out = match function(attribute, &item).and_then(handler) {
        Ok(handler) => export(&handler),
        Err(message) => parse(&format!("::core::compile_error!({message:?});")),
    };
    out.extend(item);
    out
}

fn function(attribute: &str, item: &TokenStream) -> Result<Function, String> {
    let mut tokens = item.clone().into_iter();
    let mut is_async = false;
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = token else { continue };
        match word.to_string().as_str() {
            "async" => is_async = true,
            "fn" => {
                let Some(TokenTree::Ident(name)) = tokens.next() else {
                    return Err(format!("#[dunlin_sdk::{attribute}] found no function name"));
                };
                return Ok(Function { name: name.to_string(), is_async });
            }
            _ => {}
        }
    }
    Err(format!("#[dunlin_sdk::{attribute}] belongs on a function"))
}

/// The path in `events = path`; none without arguments.
fn events(arguments: TokenStream) -> Result<Option<String>, String> {
    let mut tokens = arguments.into_iter();
    let Some(key) = tokens.next() else { return Ok(None) };
    let equals = tokens.next();
    let path = tokens.collect::<TokenStream>().to_string();
    if key.to_string() != "events" || equals.is_none_or(|sign| sign.to_string() != "=") || path.is_empty() {
        let known =
            "#[dunlin_sdk::http] takes `events = NAME_OF_A_FUNCTION` or nothing: the route is set in dunlin.toml";
        return Err(known.into());
    }
    Ok(Some(path))
}

fn export(handler: &str) -> TokenStream {
    // The name is what an author reads who has two attributes in one module.
    parse(&format!(
        "const _ONE_DUNLIN_SDK_ATTRIBUTE_PER_COMPONENT: () = {{
            struct Function;
            impl ::dunlin_sdk::guest::Guest for Function {{
                fn handle(request: ::dunlin_sdk::guest::IncomingRequest, out: ::dunlin_sdk::guest::ResponseOutparam) {{
                    ::dunlin_sdk::guest::serve(request, out, {handler});
                }}
            }}
            ::dunlin_sdk::guest::wasip2::http::proxy::export!(Function with_types_in ::dunlin_sdk::guest::wasip2);
        }};"
    ))
}

fn parse(source: &str) -> TokenStream {
    source.parse().expect("the text above is Rust")
}
