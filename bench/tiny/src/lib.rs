//! The smallest function that answers, without the standard library: `bench/run` deploys thousands of it.

#![no_std]

extern crate alloc;

use core::alloc::Layout;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn trap(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// How the host allocates; otherwise it comes with the standard library.
///
/// # Safety
/// As the canonical ABI has it: `old` came from here with `old_len` and `align`, or `old_len` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_len: usize, align: usize, new_len: usize) -> *mut u8 {
    let layout = |len| Layout::from_size_align(len, align).unwrap_or_else(|_| core::arch::wasm32::unreachable());
    // SAFETY: the host keeps the contract above, and asks for no block of no size.
    unsafe {
        match old_len {
            0 => alloc::alloc::alloc(layout(new_len)),
            _ => alloc::alloc::realloc(old, layout(old_len), new_len),
        }
    }
}

struct Function;

impl Guest for Function {
    fn handle(_: IncomingRequest, out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let Ok(body) = response.body() else { core::arch::wasm32::unreachable() };
        ResponseOutparam::set(out, Ok(response));
        if let Ok(stream) = body.write() {
            let _ = stream.blocking_write_and_flush(b"Hello, world!\n");
        }
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Function);
