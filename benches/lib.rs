//! Benchmarks of single parts; `railgun bench` measures the whole. Run with `cargo bench`.
