"""Neural networks on packed batches of jets; torch is imported by the modules in here, never by the
package.
"""
