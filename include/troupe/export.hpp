#pragma once

/// Marks what the shared library exports; everything else is built with hidden visibility.
#define TROUPE_API __attribute__((visibility("default")))
