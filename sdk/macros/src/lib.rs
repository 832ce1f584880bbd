//! The attribute behind `#[dunlin_sdk::http]`.
//!
//! Used by `dunlin-sdk` only, which re-exports it. It leaves the function as written and adds the `wasi:http` export that
//! calls it. It reads no more of the source than the function's name, so it needs no parser and adds no build time.

use proc_macro::{TokenStream, TokenTree};

/// Makes a function the component's HTTP handler (`wasi:http/incoming-handler` 0.2).
///
/// The function takes one `dunlin_sdk::Request` and returns anything that is `IntoResponse`. It may be an `async fn`: it
/// then runs on `dunlin_sdk::task`. Exactly one per crate.
#[proc_macro_attribute]
pub fn http(arguments: TokenStream, item: TokenStream) -> TokenStream {
    match handler(&arguments, &item) {
        Ok(handler) => {
            let mut out = item;
            out.extend(export(&handler));
            out
        }
        Err(message) => {
            let mut out = parse(&format!("::core::compile_error!({message:?});"));
            out.extend(item);
            out
        }
    }
}

/// The handler as an expression: the function's name, or a closure that runs the future it returns.
fn handler(arguments: &TokenStream, item: &TokenStream) -> Result<String, &'static str> {
    if !arguments.is_empty() {
        return Err("#[dunlin_sdk::http] takes no arguments: the route is set in dunlin.toml");
    }
    let mut tokens = item.clone().into_iter();
    let mut is_async = false;
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = token else { continue };
        match word.to_string().as_str() {
            "async" => is_async = true,
            "fn" => {
                let Some(TokenTree::Ident(name)) = tokens.next() else {
                    return Err("#[dunlin_sdk::http] found no function name");
                };
                return Ok(if is_async {
                    format!("|request| ::dunlin_sdk::task::block_on({name}(request))")
                } else {
                    name.to_string()
                });
            }
            _ => {}
        }
    }
    Err("#[dunlin_sdk::http] belongs on a function")
}

fn export(handler: &str) -> TokenStream {
    parse(&format!(
        "const _: () = {{
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
