//! What the operating system knows about this process.

use std::fs;

use crate::metrics::{MetricKind, MetricsSource, Samples};

/// Build, memory and open files. Figures the system does not offer are left out.
#[derive(Debug)]
pub(crate) struct ProcessMetrics;

impl MetricsSource for ProcessMetrics {
    fn collect(&self, samples: &mut Samples) {
        samples.family(
            MetricKind::Gauge,
            "railgun_build_info",
            "Always 1, labelled with the version that runs",
            [(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
        );
        // /proc/self/status rather than statm: it is in kB, whatever the page size.
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            if let Some(kib) = status_field(&status, "VmRSS:") {
                let help = "Memory of the process that is in RAM, in bytes";
                samples.gauge("process_resident_memory_bytes", help, kib * 1024.0);
            }
            if let Some(threads) = status_field(&status, "Threads:") {
                samples.gauge("process_threads", "Threads of the process", threads);
            }
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // The directory being read is itself one of them.
            let open = u32::try_from(entries.count().saturating_sub(1)).unwrap_or(u32::MAX);
            samples.gauge("process_open_fds", "Open file descriptors", f64::from(open));
        }
    }
}

/// The number after `name` in the text of `/proc/self/status`.
fn status_field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::status_field;

    #[test]
    fn status_fields_are_found_by_name_and_absent_ones_are_none() {
        let status = "Name:\trailgun\nVmRSS:\t   5120 kB\nThreads:\t9\nVmSwap: x kB\n";
        assert_eq!(status_field(status, "VmRSS:"), Some(5120.0));
        assert_eq!(status_field(status, "Threads:"), Some(9.0));
        assert_eq!(status_field(status, "VmSwap:"), None);
        assert_eq!(status_field(status, "Missing:"), None);
    }
}
