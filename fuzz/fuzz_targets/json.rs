//! A configuration file, as JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| ctsync_fuzz::configuration::check(text));
